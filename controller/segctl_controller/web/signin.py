"""Signing in with a browser: an API token or the OpenID provider, exchanged for a session and its cookie; and out."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from dataclasses import replace
from typing import cast

from segctl.errors import SegctlError, StateError
from segctl.oidcweb import Attempt, discover, token_claims
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from segctl_controller.bearers import LONGEST
from segctl_controller.clock import Clock
from segctl_controller.config import Oidc
from segctl_controller.enrolment import peer_network
from segctl_controller.errors import ForbiddenError, LimitError, UnauthenticatedError, status_of
from segctl_controller.gate import Gate
from segctl_controller.limits import METHOD
from segctl_controller.pace import BoundedPaces
from segctl_controller.principal import Principal
from segctl_controller.rpc import Context, source_address
from segctl_controller.store.records import Role
from segctl_controller.store_thread import StoreThread
from segctl_controller.web.call import RefusedError, WebCall
from segctl_controller.web.renewal import due_us, give_back
from segctl_controller.web.sessions import LONGEST as LONGEST_SESSION
from segctl_controller.web.sessions import Renewal, Session, Sessions
from segctl_controller.web.transcode import read_body

COOKIE, TRY_COOKIE = "__Host-segctl", "__Host-segctl-signin"
"""The prefix makes browsers refuse one that is not Secure, not for `/`, or of another host of the domain."""
BACK = "/auth/back"
TRY_SECONDS = 300
"""How long a person has at the provider."""
RATE, BURST = 10 / 60, 10
"""Sign-ins of one source address."""
NAMED = "/web/SignIn"
"""What a refused sign-in is called in the audit log."""
log = logging.getLogger(__name__)


class SignIn:
    def __init__(self, gate: Gate, sessions: Sessions, db: StoreThread, clock: Clock, provider: Oidc | None) -> None:
        self._gate = gate
        self._sessions = sessions
        self._db = db
        self._clock = clock
        self._provider = provider
        self._paces = BoundedPaces()

    async def options(self, request: Request) -> Response:
        """How one may sign in here: for everybody."""
        return JSONResponse({"issuer": self._provider.issuer if self._provider else ""})

    async def with_token(self, request: Request) -> Response:
        """{"token": TEXT}. Raises RefusedError."""
        body = await read_body(request, LONGEST + 64)
        try:
            token = json.loads(body)["token"]
        except (ValueError, TypeError, KeyError, RecursionError):
            token = None
        if not isinstance(token, str):
            return JSONResponse({"code": "INVALID_ARGUMENT", "message": "the body is no token"}, 400)
        try:
            self._pace(request)
            return self._cookie(Response(status_code=204), await self._begin(request, token.strip()))
        except SegctlError as error:
            raise RefusedError(status_of(error), str(error)) from error

    async def with_provider(self, request: Request) -> Response:
        """To the provider; what the answer must fit is in a cookie for the way back."""
        if self._provider is None:
            return Response("this controller knows no OpenID provider\n", 404)
        try:
            self._pace(request)
            metadata = await asyncio.to_thread(discover, self._provider.issuer)
        except SegctlError as error:
            return self._failed(error)
        attempt = Attempt.new()
        away = attempt.address(metadata, self._provider.client_id, _redirect_uri(request), self._provider.scopes)
        answer = Response(status_code=303, headers={"location": away})
        kept = ".".join((attempt.state, attempt.nonce, attempt.verifier))
        # Lax: the way back is a navigation that another site begins.
        answer.set_cookie(TRY_COOKIE, kept, TRY_SECONDS, secure=True, httponly=True, samesite="lax")
        return answer

    async def back(self, request: Request) -> Response:
        """From the provider, with the code (RFC 6749, 4.1.2; the issuer is RFC 9207's)."""
        provider, told = self._provider, request.query_params
        kept = request.cookies.get(TRY_COOKIE, "").split(".")
        fits = secrets.compare_digest(told.get("state", "").encode(), kept[0].encode())
        if provider is None or len(kept) != 3 or not all(kept) or not fits:
            return self._failed(UnauthenticatedError("the answer fits no sign-in that this browser began"))
        if "code" not in told or told.get("iss", provider.issuer) != provider.issuer:
            return self._failed(UnauthenticatedError(f"the provider refused: {told.get('error', '')[:100]!r}"))
        attempt = Attempt(*kept)
        renewal = None
        try:
            self._pace(request)
            metadata = await asyncio.to_thread(discover, provider.issuer)
            uri = _redirect_uri(request)
            answer = await asyncio.to_thread(attempt.redeem, metadata, provider.client_id, uri, told["code"])
            token, refresh = answer.get("id_token"), answer.get("refresh_token")
            if isinstance(refresh, str) and refresh:
                revocation = metadata.get("revocation_endpoint")
                revocation = revocation if isinstance(revocation, str) else ""
                renewal = Renewal(provider.client_id, metadata["token_endpoint"], revocation, refresh)
            if not isinstance(token, str) or token_claims(token).get("nonce") != attempt.nonce:
                raise UnauthenticatedError("the ID token is not the one that was asked for")
            secret = await self._begin(request, token, renewal)
        except SegctlError as error:
            failed = self._failed(error)
            if renewal is not None:  # nobody will use it
                failed.background = BackgroundTask(give_back, renewal)
            return failed
        return self._cookie(_without_attempt(RedirectResponse("/", 303)), secret)

    async def out(self, request: Request) -> Response:
        """Raises SegctlError where the session could not be ended: then the cookie stays too."""
        secret, answer = request.cookies.get(COOKIE, ""), Response(status_code=204)
        session = None
        if await self._sessions.find(secret, source_network(request)) is not None:
            session = await self._sessions.end(secret)
        if session is not None:
            if session.renewal is not None:
                answer.background = BackgroundTask(give_back, session.renewal)
            self._gate.look_again()
            peer = str(source_address(_call(request)) or "unknown")
            await self._note(Principal(session.name, Role.VIEWER, session.identity, peer), "web-sign-out")
        answer.delete_cookie(COOKIE, secure=True, httponly=True, samesite="strict")
        return answer

    async def _begin(self, request: Request, token: str, renewal: Renewal | None = None) -> str:
        """The secret of the new session. Raises SegctlError where the token is not good."""
        session = Session("", "", token)
        METHOD.set(NAMED)
        who = await self._gate.admit(_call(request, session), Role.VIEWER)
        session.identity, session.name = who.identity, who.name
        if renewal is not None:
            session.renewal = replace(renewal, due_us=due_us(who.until_us, self._clock.now_us()))
        await self._sessions.end(request.cookies.get(COOKIE, ""))  # the browser's last one
        secret = await self._sessions.begin(session)
        await self._note(who, "web-sign-in")
        return secret

    async def _note(self, who: Principal, action: str) -> None:
        """Also whoever looks for what fills the disk of the database gets in and out."""
        try:
            await self._db.call(self._db.store.add_entry, who.entry(self._clock.now_us(), action, who.identity))
        except StateError as error:
            log.error("%s of %s is not in the audit log: %s", action, who.name, error)

    def _pace(self, request: Request) -> None:
        """Raises LimitError."""
        if self._paces.take((source_network(request), ""), RATE, BURST, 0.0) is None:
            raise LimitError("too many sign-ins from your address; wait a minute")

    def _cookie(self, answer: Response, secret: str) -> Response:
        longest = int(LONGEST_SESSION)
        answer.set_cookie(COOKIE, secret, longest, secure=True, httponly=True, samesite="strict")
        return answer

    def _failed(self, error: SegctlError) -> Response:
        """The page says which kind it was; what exactly, the log. A text in the address could be anybody's."""
        kinds = ((ForbiddenError, "forbidden"), (LimitError, "limit"), (UnauthenticatedError, "refused"))
        kind = next((name for of, name in kinds if isinstance(error, of)), "provider")
        log.info("a sign-in failed: %s", error)
        return _without_attempt(RedirectResponse(f"/signin?failed={kind}", 303))


def _without_attempt(answer: Response) -> Response:
    answer.delete_cookie(TRY_COOKIE, secure=True, httponly=True, samesite="lax")
    return answer


def _call(request: Request, session: Session | None = None) -> Context:
    """As the gate reads it: the part of a context that it asks for is there."""
    client = (request.client.host, request.client.port) if request.client else None
    return cast(Context, WebCall(session or Session("", "", ""), client))


def source_network(request: Request) -> str:
    """Who counts as one peer."""
    return peer_network(source_address(_call(request)))


def _redirect_uri(request: Request) -> str:
    """At the name by which the browser came, which the guard has found to be ours."""
    return f"https://{request.headers['host']}{BACK}"
