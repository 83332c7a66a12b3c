"""The web application: static bundle, sign-in, API."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import grpc
from segctl.errors import SegctlError, StateError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from segctl_controller.admin import Admin
from segctl_controller.clock import Clock
from segctl_controller.config import Oidc
from segctl_controller.errors import status_of
from segctl_controller.gate import Gate
from segctl_controller.store_thread import StoreThread
from segctl_controller.web.assets import PAGES, SHELL, Asset, load_assets
from segctl_controller.web.call import SIGN_IN_AGAIN, RefusedError
from segctl_controller.web.guard import Guard
from segctl_controller.web.renewal import renew
from segctl_controller.web.sessions import Session, Sessions
from segctl_controller.web.signin import BACK, COOKIE, SignIn, source_network
from segctl_controller.web.transcode import METHODS, Transcoder, refusal

log = logging.getLogger(__name__)


class Api:
    def __init__(self, admin: Admin, sessions: Sessions, clock: Clock) -> None:
        self._transcoder = Transcoder(admin, self._touch)
        self._sessions = sessions
        self._clock = clock

    async def serve(self, request: Request) -> Response:
        method = METHODS.get(request.path_params["method"])
        if method is None:
            text = "no such method here; the methods are in docs/web.md"
            raise RefusedError(grpc.StatusCode.UNIMPLEMENTED, text)
        secret = request.cookies.get(COOKIE, "")
        session = await self._sessions.find(secret, source_network(request))
        if session is not None:
            await renew(session, self._sessions, self._clock)
        if session is None or not session.token:
            raise RefusedError(grpc.StatusCode.UNAUTHENTICATED, SIGN_IN_AGAIN)
        try:
            return await self._transcoder.answer(method, request, session)
        except RefusedError as error:
            if error.code is grpc.StatusCode.UNAUTHENTICATED:
                await self._sessions.end(secret)  # the token was revoked, or ended
            raise

    async def _touch(self, session: Session) -> None:
        """As a request does: an open stream is use, and goes on with the next ID token."""
        with suppress(StateError):  # the store is in trouble: nobody signed out
            if await self._sessions.touch(session):
                await renew(session, self._sessions, self._clock)


def make_app(
    admin: Admin, gate: Gate, db: StoreThread, clock: Clock, provider: Oidc | None, names: Iterable[str]
) -> ASGIApp:
    """`names`: by which it may be called."""
    sessions = Sessions(db, clock)
    signin, api = SignIn(gate, sessions, db, clock, provider), Api(admin, sessions, clock)
    assets = load_assets()

    def static(asset: Asset) -> Callable[[Request], Awaitable[Response]]:
        async def serve(request: Request) -> Response:
            return asset.answer(request)

        return serve

    routes = [
        *(Route(path, static(assets[SHELL])) for path in PAGES),
        *(Route(f"/{name}", static(asset)) for name, asset in assets.items() if name != SHELL),
        Route("/auth/options", signin.options),
        Route("/auth/token", signin.with_token, methods=["POST"]),
        Route("/auth/oidc", signin.with_provider),
        Route(BACK, signin.back),
        Route("/auth/out", signin.out, methods=["POST"]),
        Route("/api/v1/{method}", api.serve, methods=["POST"]),
    ]
    refused: dict[Any, Any] = {RefusedError: _refused, SegctlError: _failed}
    handlers = {**refused, ClientDisconnect: _left, Exception: _broken}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), names)


async def _refused(request: Request, error: RefusedError) -> Response:
    return refusal(error.code, str(error), error.status)


async def _failed(request: Request, error: SegctlError) -> Response:
    return await _refused(request, RefusedError(status_of(error), str(error)))


async def _left(request: Request, error: Exception) -> Response:
    """Amid its request, as anybody may as often as they like: a trace for each would be theirs to write."""
    return Response(status_code=HTTPStatus.BAD_REQUEST)


async def _broken(request: Request, error: Exception) -> Response:
    """Starlette logs it with its trace."""
    return PlainTextResponse("it failed: see the controller's log\n", HTTPStatus.INTERNAL_SERVER_ERROR)
