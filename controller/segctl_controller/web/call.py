"""One call of an Admin handler that came over HTTP: what the handler asks of its gRPC context, answered for it."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import NoReturn

import grpc
from segctl.errors import SegctlError

from segctl_controller.web.sessions import Session

STATUS: dict[grpc.StatusCode, HTTPStatus] = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    grpc.StatusCode.ABORTED: HTTPStatus.CONFLICT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}
"""google/rpc/code.proto; what is not here is INTERNAL."""
SIGN_IN_AGAIN = "you are not signed in, or no longer; sign in"


class RefusedError(SegctlError):
    """The handler refused: `code` and the text are what a gRPC client would get."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        self.code = code
        super().__init__(text)

    @property
    def status(self) -> HTTPStatus:
        return STATUS.get(self.code, HTTPStatus.INTERNAL_SERVER_ERROR)


class WebCall:
    """The part of grpc.aio.ServicerContext that Admin's handlers use. Who calls is the session's bearer, which the gate
    judges as it does on the listener for tokens, at each call and of open streams every second."""

    def __init__(self, session: Session, client: tuple[str, int] | None) -> None:
        self._session = session
        self._client = client

    def auth_context(self) -> dict[str, Sequence[bytes]]:
        """No certificate: none is asked for here."""
        return {}

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._session.token}"),) if self._session.token else ()

    def peer(self) -> str:
        """As gRPC names it."""
        if self._client is None:
            return "unknown"
        host, port = self._client
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    async def send_initial_metadata(self, _metadata: object) -> None:
        """The answer's head has gone by then, or goes with the first message."""

    async def abort(self, code: grpc.StatusCode, text: str) -> NoReturn:
        ended = code is grpc.StatusCode.UNAUTHENTICATED and not self._session.token
        raise RefusedError(code, SIGN_IN_AGAIN if ended else text)
