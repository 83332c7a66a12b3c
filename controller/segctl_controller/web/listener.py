"""uvicorn in the controller's own loop: TLS 1.3 alone, with bounds on connections."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from segctl.errors import StateError
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from segctl_controller.config import endpoint
from segctl_controller.web.tls import Pair, Presented

log = logging.getLogger(__name__)
MOST_OPEN, MOST_OF_ONE = 512, 64
"""Connections, of all and of one address: browsers open six, and one more for each stream."""
FIRST_SECONDS = 10.0
"""For a whole request on a new connection."""
KEPT_SECONDS = 75
LONGEST_HEAD = 32 * 1024
"""Of a request line with its headers."""
BACKLOG = 128
GRACE_SECONDS = 0.5


class Listener:
    def __init__(self, app: ASGIApp, pair: Callable[[], Pair]) -> None:
        """`pair`: see Presented. Raises StateError where there is none."""
        self._config = uvicorn.Config(
            app,
            http=_Bounded,
            ws="none",
            loop="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEPT_SECONDS,
            h11_max_incomplete_event_size=LONGEST_HEAD,
        )
        self._config.load()
        self._config.ssl = Presented(pair).context
        self._server = _Server(self._config)
        self._task: asyncio.Task[None] | None = None

    def start(self, host: str, port: int) -> int:
        """The port. Raises StateError when it cannot listen there."""
        listening = _listening(host, port)
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self._task = asyncio.create_task(self._server.serve([listening]), name="web")
        self._task.add_done_callback(_tell)
        return int(listening.getsockname()[1])

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)


def _tell(ended: asyncio.Task[None]) -> None:
    if not ended.cancelled() and ended.exception() is not None:
        log.error("the web UI ended; agents and operators are served on", exc_info=ended.exception())


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are the controller's."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """What is under way gets a moment; streams, which have no end, are cut. uvicorn's own waits for browsers to
        close what they keep open."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if self.server_state.tasks:
            _, late = await asyncio.wait(list(self.server_state.tasks), timeout=GRACE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class _Bounded(H11Protocol):
    """A connection over the bounds is closed at once, and one that does not ask anything after a while."""

    _first: asyncio.TimerHandle | None = None

    @property
    def host(self) -> str:
        return self.client[0] if self.client else ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        host = self.host
        own = sum(isinstance(other, _Bounded) and other.host == host for other in self.connections)
        if len(self.connections) > MOST_OPEN or own > MOST_OF_ONE:
            transport.abort()
            return
        self._first = self.loop.call_later(FIRST_SECONDS, self._expire)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._first is not None:
            self._first.cancel()
        super().connection_lost(exc)

    def _expire(self) -> None:
        if self.cycle is None:  # no request was whole by now
            self.transport.abort()


def _listening(host: str, port: int) -> socket.socket:
    """Raises StateError."""
    where = endpoint(host, port)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(BACKLOG)
    except OSError as error:
        raise StateError(
            f"web: cannot listen on {where}: {error.strerror or error}; stop the other program (ss -ltnp shows it), or "
            "change web.listen or web.port in controller.json"
        ) from error
    return made
