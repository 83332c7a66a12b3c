"""Bearer tokens: API tokens, and ID tokens of the OpenID provider. Only where no client certificate is asked for."""

from __future__ import annotations

import hashlib

from segctl.apitoken import PREFIX, is_whole

from segctl_controller.clock import Clock
from segctl_controller.errors import UnauthenticatedError
from segctl_controller.oidc import OidcVerifier, member_rights
from segctl_controller.principal import Principal
from segctl_controller.store.records import ApiTokenRecord
from segctl_controller.store_thread import StoreThread

LONGEST = 8192
MINUTE_US = 60_000_000
MOST_REMEMBERED = 10_000
NO_TOKEN = "no token was shown; sign in with segctl login, or name an API token in SEGCTL_TOKEN_FILE"  # noqa: S105


class Bearers:
    """Reads the store at each call, so that a token revoked or a group unmapped ends at once."""

    def __init__(self, db: StoreThread, clock: Clock, oidc: OidcVerifier | None) -> None:
        self._db, self._clock, self._oidc = db, clock, oidc
        self._used: dict[str, int] = {}

    async def principal(self, token: str, peer: str) -> Principal:
        """Raises UnauthenticatedError for a token that is not good, ForbiddenError for one whose groups are nobody."""
        if not token or len(token) > LONGEST:
            raise UnauthenticatedError(NO_TOKEN if not token else f"the token is longer than {LONGEST} bytes")
        if token.startswith(PREFIX):
            return await self._of_api_token(token, peer)
        if self._oidc is None:
            raise UnauthenticatedError("this is no API token, and this controller knows no OpenID provider")
        claims = await self._oidc.verify(token)
        role, scopes = member_rights(await self._db.call(self._db.store.groups), claims)
        return Principal(f"oidc/{claims.name}", role, f"oidc {claims.subject}", peer, scopes, claims.until_us)

    async def _of_api_token(self, token: str, peer: str) -> Principal:
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        found = await self._db.call(self._db.store.api_token, digest) if is_whole(token) else None
        now = self._clock.now_us()
        if found is None or found.expires_us <= now:
            # One text for every reason, so that nobody learns which tokens exist.
            raise UnauthenticatedError(
                "this API token is unknown, revoked or expired; ask an administrator for another"
            )
        self._note_use(found, now)
        scopes = (found.scope,) if found.scope.pairs else ()
        identity = f"api-token {found.id}"
        return Principal(f"token/{found.name}", found.role, identity, peer, scopes, found.expires_us)

    def _note_use(self, token: ApiTokenRecord, now: int) -> None:
        """At most once a minute: it is no reason to write at each call."""
        if now - max(self._used.get(token.id, 0), token.last_used_us) >= MINUTE_US:
            if len(self._used) >= MOST_REMEMBERED:
                self._used.clear()
            self._used[token.id] = now
            self._db.post(self._db.store.use_api_token, token.id, now)
