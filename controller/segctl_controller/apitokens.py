"""API tokens for automation: made, listed and revoked. The secret leaves the controller once."""

from __future__ import annotations

import hashlib
import secrets

from segctl.apitoken import new_token
from segctl.model.policy import Tags
from segctl.proto.v1 import admin_pb2

from segctl_controller.clock import Clock
from segctl_controller.errors import InvalidRequestError, LimitError, PreconditionError
from segctl_controller.gate import Gate
from segctl_controller.names import checked_name
from segctl_controller.principal import Principal, checked_scope
from segctl_controller.store.records import ApiTokenRecord, Role
from segctl_controller.store_thread import StoreThread

DEFAULT_SECONDS, LONGEST_SECONDS = 90 * 24 * 3600, 366 * 24 * 3600
MOST_TOKENS = 1000


class ApiTokenAdmin:
    """`taken` says whether this controller listens where tokens are taken."""

    def __init__(self, gate: Gate, db: StoreThread, clock: Clock, *, taken: bool) -> None:
        self._gate, self._db, self._clock, self._taken = gate, db, clock, taken

    async def create(self, request: admin_pb2.CreateApiTokenRequest, by: Principal) -> admin_pb2.CreateApiTokenReply:
        """Raises InvalidRequestError naming the field, PreconditionError where nobody would take the token."""
        if not self._taken:
            raise PreconditionError(
                'this controller takes no tokens: put "api_port": 7446 into controller.json and restart it'
            )
        name = checked_name(request.name, "the API token")
        if request.role not in [role.value for role in Role]:
            raise InvalidRequestError(f"role {request.role[:40]!r}: one of {', '.join(role.value for role in Role)}")
        role = Role(request.role)
        scope = checked_scope(role, Tags.of(dict(request.scope)))
        seconds = request.valid_seconds or DEFAULT_SECONDS
        if seconds > LONGEST_SECONDS:
            raise InvalidRequestError("an API token is valid for at most 366 days; make another before it ends")
        if len(await self._db.call(self._db.store.api_tokens)) >= MOST_TOKENS:
            raise LimitError(f"there are {MOST_TOKENS} API tokens; revoke some: segctl api-token list")
        secret, now = new_token(), self._clock.now_us()
        token = ApiTokenRecord(
            id=f"a-{secrets.token_hex(4)}",
            sha256=hashlib.sha256(secret.encode()).digest(),
            name=name,
            role=role,
            scope=scope,
            created_by=by.name,
            created_us=now,
            expires_us=now + seconds * 1_000_000,
        )
        detail = f"{name}: role {role.value}{f' of {scope}' if scope.pairs else ''}; {seconds} s"
        entry = by.entry(now, "api-token", f"api-token {token.id}", detail)
        await self._db.call(self._db.store.add_api_token, token, entry)
        return admin_pb2.CreateApiTokenReply(secret=secret, token=api_token_view(token))

    async def list(self) -> admin_pb2.ListApiTokensReply:
        found = await self._db.call(self._db.store.api_tokens)
        return admin_pb2.ListApiTokensReply(tokens=[api_token_view(token) for token in found])

    async def revoke(self, token_id: str, by: Principal) -> None:
        """Raises NotFoundError. Ends the streams that are open with it."""
        entry = by.entry(self._clock.now_us(), "api-token-revoke", f"api-token {token_id[:80]}")
        await self._db.call(self._db.store.remove_api_token, token_id[:80], entry)
        self._gate.look_again()


def api_token_view(token: ApiTokenRecord) -> admin_pb2.ApiToken:
    return admin_pb2.ApiToken(
        id=token.id,
        name=token.name,
        role=token.role.value,
        scope=dict(token.scope.pairs),
        created_by=token.created_by,
        created_us=token.created_us,
        expires_us=token.expires_us,
        last_used_us=token.last_used_us,
    )
