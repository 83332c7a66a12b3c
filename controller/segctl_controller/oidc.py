"""ID tokens of the OpenID provider: their signature, issuer, audience and times, and what their groups may do.

OpenID Connect Core 1.0, 3.1.3.7; signatures are joserfc's, by an allow-list of asymmetric algorithms.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from joserfc import jwk, jws, jwt
from joserfc.errors import JoseError
from segctl.model.policy import Tags
from segctl.oidcweb import WebError, discover, fetch_json

from segctl_controller.clock import Clock
from segctl_controller.config import Oidc
from segctl_controller.errors import ForbiddenError, ProviderError, UnauthenticatedError
from segctl_controller.store.records import GroupRecord, Role

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
LEEWAY = 30
"""Seconds that the provider's clock and ours may differ."""
LATEST = 253_402_300_799
"""The end of the year 9999: what comes after it cannot be shown."""
KEYS_LIVE, KEYS_REST = 3600.0, 30.0
"""Seconds for which keys are used without asking, and between two questions."""
MOST_KEYS, MOST_GROUPS, LONGEST_NAME = 64, 1000, 128


@dataclass(frozen=True, slots=True)
class Claims:
    """What a good ID token says; `until_us` in Unix microseconds."""

    subject: str
    name: str
    groups: frozenset[str]
    until_us: int


class Keys:
    """The provider's signing keys. An unknown key id makes us ask again (they were rotated), but not at once after the
    last time: strangers choose key ids. What was fetched once holds until the provider says otherwise."""

    def __init__(
        self,
        issuer: str,
        fetch: Callable[[str], dict[str, Any]] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch or fetch_keys
        self._issuer, self._now = issuer, now
        self._asking: asyncio.Task[None] | None = None
        self._keys: dict[str, jwk.Key] = {}
        self._fetched = self._asked = -KEYS_LIVE
        self._why = ""

    async def of(self, identifier: str) -> jwk.Key | None:
        """Raises ProviderError when there are no keys and the provider does not give any. Who shows a known key does
        not wait for a provider that hangs."""
        known = self._known(identifier)
        if known is None or self._now() - self._fetched > KEYS_LIVE:
            if (self._asking is None or self._asking.done()) and self._now() - self._asked > KEYS_REST:
                self._asking = asyncio.create_task(self._refresh(), name="keys")
            if known is None and self._asking is not None:
                await asyncio.shield(self._asking)
        if not self._keys:  # also between two questions: that the provider is away says nothing of the token
            raise ProviderError(f"the OpenID provider {self._issuer} cannot be asked for its keys: {self._why}")
        return self._known(identifier)

    def _known(self, identifier: str) -> jwk.Key | None:
        """A token may leave the id out where there is one key (OpenID Connect Core 1.0, 10.1)."""
        only = next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(identifier) or (only if not identifier else None)

    async def _refresh(self) -> None:
        self._asked = self._now()
        try:
            found = await asyncio.to_thread(self._fetch, self._issuer)
            self._keys = _keys_of(found)
            self._fetched, self._why = self._now(), "it publishes none"
        except (WebError, JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
            self._why = str(error)


def fetch_keys(issuer: str) -> dict[str, Any]:
    """Raises WebError."""
    return fetch_json(discover(issuer)["jwks_uri"])


def _keys_of(found: dict[str, Any]) -> dict[str, jwk.Key]:
    """Those to verify with, by key id. A set of one key may leave the id out."""
    keys: dict[str, jwk.Key] = {}
    for given in found["keys"][:MOST_KEYS]:
        # "oct" is a shared secret: never one of a provider's published keys.
        if given.get("kty") in ("RSA", "EC", "OKP") and given.get("use", "sig") == "sig":
            keys[str(given.get("kid", ""))] = jwk.import_key(given)
    return keys


class OidcVerifier:
    def __init__(self, provider: Oidc, clock: Clock, keys: Keys | None = None) -> None:
        self.provider = provider
        self._clock = clock
        self._keys = keys or Keys(provider.issuer)

    async def verify(self, token: str) -> Claims:
        """Raises UnauthenticatedError, or ProviderError when the keys are not to be had."""
        try:
            header = jws.extract_compact(token.encode("ascii")).headers()
            key = await self._keys.of(str(header.get("kid", "")))
            if key is None:
                raise UnauthenticatedError(f"the ID token is signed by a key that {self.provider.issuer} does not have")
            claims = jwt.decode(token, key, algorithms=ALGORITHMS).claims
            jwt.JWTClaimsRegistry(
                now=int(self._clock.now().timestamp()),
                leeway=LEEWAY,
                iss={"essential": True, "value": self.provider.issuer},
                aud={"essential": True, "value": self.provider.client_id},
                sub={"essential": True},
                exp={"essential": True},
                iat={"essential": True},
            ).validate(claims)
        except (JoseError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UnauthenticatedError(f"the ID token is not good: {_words(error)}; sign in again") from error
        return self._read(claims)

    def _read(self, claims: dict[str, Any]) -> Claims:
        audience = claims["aud"]
        # Several audiences: it must say that it was made for us (3.1.3.7, 4 and 5).
        if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != self.provider.client_id:
            raise UnauthenticatedError("the ID token was made for another client")
        subject, name = claims["sub"], claims.get(self.provider.name_claim) or claims["sub"]
        groups = claims.get(self.provider.groups_claim, [])
        if not isinstance(groups, list) or len(groups) > MOST_GROUPS or not all(isinstance(g, str) for g in groups):
            raise UnauthenticatedError(f"the claim {self.provider.groups_claim} of the ID token is no list of groups")
        for text in (subject, name):
            if not isinstance(text, str) or not text.isprintable() or not 0 < len(text) <= LONGEST_NAME:
                raise UnauthenticatedError(f"subject or {self.provider.name_claim} of the ID token cannot be shown")
        return Claims(subject, name, frozenset(groups), min(int(claims["exp"]), LATEST) * 1_000_000)


def member_rights(mapped: Iterable[GroupRecord], claims: Claims) -> tuple[Role, tuple[Tags, ...]]:
    """The highest role of its groups, and of owners every scope. Raises ForbiddenError where no group is mapped."""
    mine = [group for group in mapped if group.name in claims.groups]
    if not mine:
        raise ForbiddenError(
            f"{claims.name!r} is in no group that has a role here; an administrator gives one: segctl-controller admin "
            "map-group GROUP --role ROLE"
        )
    role = max((group.role for group in mine), key=lambda r: r.rank)
    return role, tuple(g.scope for g in mine if g.role is Role.OWNER) if role is Role.OWNER else ()


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
