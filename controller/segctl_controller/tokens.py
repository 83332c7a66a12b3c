"""Join tokens: made, listed and revoked. The secret leaves the controller once and is stored as its SHA-256."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets

from segctl.proto.v1 import admin_pb2

from segctl_controller.clock import Clock
from segctl_controller.config import Config, endpoint
from segctl_controller.errors import InvalidRequestError
from segctl_controller.fleet import Fleet
from segctl_controller.names import checked_name, checked_networks, checked_tags
from segctl_controller.principal import Principal
from segctl_controller.store.records import TokenRecord
from segctl_controller.store_thread import StoreThread
from segctl_controller.trust import Trust
from segctl_controller.views import token_view

DEFAULT_SECONDS = 3600
LONGEST_SECONDS = 30 * 24 * 3600
MOST_USES = 10_000
SECRET_BYTES = 32


def join_line(config: Config, ca: bytes, secret: bytes, other_cas: tuple[bytes, ...] = ()) -> str:
    """base64url of JSON: controllers `c`, enrolment endpoints `e`, the CA of the controller's certificate as DER `ca`,
    the others that it may be of by the time that the token is used `cas`, the secret `s`."""
    content: dict[str, object] = {
        "c": [endpoint(name, config.port) for name in config.names],
        "e": [endpoint(name, config.enrol_port) for name in config.names],
        "ca": base64.b64encode(ca).decode("ascii"),
        "s": base64.b64encode(secret).decode("ascii"),
    }
    if other_cas:
        content["cas"] = [base64.b64encode(other).decode("ascii") for other in other_cas]
    return base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).decode("ascii")


class TokenAdmin:
    def __init__(self, config: Config, trust: Trust, fleet: Fleet, db: StoreThread, clock: Clock) -> None:
        self._config = config
        self._trust = trust
        self._fleet = fleet
        self._db = db
        self._clock = clock

    async def create(self, request: admin_pb2.CreateTokenRequest, by: Principal) -> admin_pb2.CreateTokenReply:
        """Raises InvalidRequestError naming the field."""
        active = self._fleet.active
        tags = checked_tags(dict(request.tags), active.policy if active.number else None)
        uses, seconds = request.uses or 1, request.valid_seconds or DEFAULT_SECONDS
        if uses > MOST_USES or seconds > LONGEST_SECONDS:
            raise InvalidRequestError(
                f"a token has at most {MOST_USES} uses and is valid for at most {LONGEST_SECONDS} seconds (30 days)"
            )
        if request.host and uses > 1:
            raise InvalidRequestError("a token that names its host has one use; leave out the host or the uses")
        if request.replace and not request.host:
            raise InvalidRequestError(
                "a token that may take over the name of an enrolled host must name it (--host NAME); else its "
                "holder could take over any host"
            )
        now = self._clock.now_us()
        secret = secrets.token_bytes(SECRET_BYTES)
        token = TokenRecord(
            id=f"t-{secrets.token_hex(4)}",
            sha256=hashlib.sha256(secret).digest(),
            tags=tags,
            host=checked_name(request.host, "the token's host") if request.host else "",
            uses=uses,
            expires_us=now + seconds * 1_000_000,
            replace=request.replace,
            created_by=by.name,
            networks=checked_networks(request.networks),
        )
        detail = f"tags {tags}; host {token.host or 'any'}; uses {uses}; {seconds} s; replace {token.replace}"
        entry = by.entry(now, "token", f"token {token.id}", detail)
        await self._db.call(self._db.store.add_token, token, entry)
        current, *others = self._trust.cas.der
        return admin_pb2.CreateTokenReply(
            join=join_line(self._config, current, secret, tuple(others)), id=token.id, expires_us=token.expires_us
        )

    async def list(self) -> admin_pb2.ListTokensReply:
        found = await self._db.call(self._db.store.tokens, self._clock.now_us())
        return admin_pb2.ListTokensReply(tokens=[token_view(token) for token in found])

    async def revoke(self, token_id: str, by: Principal) -> None:
        """Raises NotFoundError."""
        entry = by.entry(self._clock.now_us(), "revoke", f"token {token_id[:80]}")
        await self._db.call(self._db.store.remove_token, token_id[:80], entry)
