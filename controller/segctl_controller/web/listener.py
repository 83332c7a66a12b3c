"""uvicorn in the controller's own loop: TLS 1.3 alone, with bounds on connections."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import h11
import uvicorn
from segctl.errors import StateError
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from segctl_controller.config import endpoint
from segctl_controller.enrolment import peer_network
from segctl_controller.rpc import address_of
from segctl_controller.web.tls import Pair, Presented

log = logging.getLogger(__name__)
MOST_OPEN, MOST_OF_ONE = 512, 64
"""Connections, of all and of one source (peer_network), from before TLS on: browsers open six, and one more for each
stream."""
HANDSHAKE_SECONDS, HEAD_SECONDS, BODY_SECONDS = 10.0, 10.0, 60.0
"""For TLS to be there, then for the head of each request from its first byte on (of the first one from the start of the
connection), then for its body: 9 MB of a policy, as JSON, over 2.4 Mbit/s."""
STALLED_SECONDS = 60.0
"""For which a client may take nothing of what is sent to it, or be gone without a word (TCP_USER_TIMEOUT, tcp(7))."""
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
        # Its warnings are of what strangers send, a line for each.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
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
    """Accepts by itself: uvicorn has no bounds for who never begins TLS, nor for one source."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._open: Counter[str] = Counter()
        self._links: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets
        self._listening = sockets[0]
        self._accepting = asyncio.create_task(self._accept(), name="web accepts")
        self._accepting.add_done_callback(_tell)
        self.started = True

    async def _accept(self) -> None:
        while True:
            try:
                made, address = await asyncio.get_running_loop().sock_accept(self._listening)
            except OSError as error:
                log.error("the web UI takes no connection for a second: %s", error)
                await asyncio.sleep(1)
                continue
            source = peer_network(address_of(address[0]))
            if self._open.total() >= MOST_OPEN or self._open[source] >= MOST_OF_ONE:
                made.close()
                continue
            self._open[source] += 1
            link = asyncio.create_task(self._hold(made, source), name="web connection")
            self._links.add(link)
            link.add_done_callback(self._links.discard)

    async def _hold(self, made: socket.socket, source: str) -> None:
        """As long as the connection is there."""
        protocol = _Bounded(self.config, self.server_state)
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALLED_SECONDS * 1000))
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol, made, ssl=self.config.ssl, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
            await protocol.lost.wait()
        except OSError as error:  # also ssl.SSLError
            log.debug("no TLS with %s: %s", source, error)
        finally:
            self._open[source] -= 1
            if not self._open[source]:
                del self._open[source]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are the controller's."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """What is under way gets a moment; streams, which have no end, are cut. uvicorn's own waits for browsers to
        close what they keep open."""
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._listening.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if self.server_state.tasks:
            _, late = await asyncio.wait(list(self.server_state.tasks), timeout=GRACE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for connection in list(self.server_state.connections):
            _cut(connection.transport)
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)


class _Bounded(H11Protocol):
    """A connection whose client does not complete a request in time is cut."""

    _deadline: asyncio.TimerHandle | None = None
    _awaited: object = None
    """Which part of a request the deadline is for, as h11 names it; None: the client owes nothing."""

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config, state, {})
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        begun = self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]
        if begun:  # the next request, which came with the last one; else the connection is kept (KEPT_SECONDS)
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._await(None)
        self._unset_keepalive_if_required()  # uvicorn leaves it where the end was an error, and it holds all of this
        super().connection_lost(exc)
        self.lost.set()

    def _watch(self) -> None:
        state = self.conn.their_state
        self._await(state if state in (h11.IDLE, h11.SEND_BODY) else None)

    def _await(self, part: object) -> None:
        if part is self._awaited:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._awaited = part
        seconds = HEAD_SECONDS if part is h11.IDLE else BODY_SECONDS
        self._deadline = None if part is None else self.loop.call_later(seconds, _cut, self.transport)


def _cut(transport: asyncio.Transport) -> None:
    """One that was closed twice has no TLS to abort any more, in the asyncio of Debian 12: it ends by itself."""
    with suppress(AttributeError):
        transport.abort()


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
