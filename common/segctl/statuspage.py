"""A few pages over HTTP for monitoring: /metrics, /healthz, /readyz. From the loop, without a thread for a request.

Whoever reaches the port may ask, and may be hostile: a connection ends after some seconds, a request is short, a new
connection takes the place of the oldest one, and no more than some are taken up in a second. The others wait in the
kernel.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from segctl.errors import StateError

log = logging.getLogger(__name__)

OFF: Final = "off"
SECONDS = 5.0
"""For a request and its answer."""
MOST_OPEN = 8
MOST_BYTES = 4096
"""Of a request: line and headers."""
PAUSE_SECONDS = 0.02
"""Between two connections that are taken up: 50 a second."""
PLAIN = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Where:
    """An address to listen on; port 0: any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_where(text: str) -> Where | None:
    """HOST:PORT, an IPv6 address in brackets, or `off`: None. Raises ValueError."""
    if text == OFF:
        return None
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and "[" not in text):
        raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:7446 or [::1]:7446, and not {OFF}")
    return Where(host, int(port))


@dataclass(frozen=True, slots=True)
class Page:
    """What a path answers. `kind` is its Content-Type."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    kind: str = PLAIN


def verdict(reasons: tuple[str, ...]) -> Page:
    """`ok`, or 503 and why not, a reason a line."""
    if not reasons:
        return Page(b"ok\n")
    return Page("".join(f"{r}\n" for r in reasons).encode(), HTTPStatus.SERVICE_UNAVAILABLE)


class StatusPage:
    """`pages` are asked in the loop, at each request: they must not keep it from its work."""

    def __init__(self, pages: Mapping[str, Callable[[], Awaitable[Page]]]) -> None:
        self._pages = pages
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._open: dict[asyncio.Task[None], None] = {}

    def start(self, where: Where) -> Where:
        """Where it listens. Raises StateError that says why it cannot."""
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICHOST
            )[0]
            listener = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
        except OSError as error:
            raise StateError(f"metrics: {where} is no address of this machine: {error.strerror or error}") from error
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(MOST_OPEN)
        except OSError as error:
            listener.close()
            raise StateError(
                f"metrics: cannot listen on {where}: {error.strerror}. `ss -ltnp` shows who has the port; --metrics "
                "names another, or off"
            ) from error
        self._socket = listener
        self._accepting = asyncio.create_task(self._accept(listener), name="metrics")
        return Where(where.host, listener.getsockname()[1])

    async def close(self) -> None:
        tasks = [*self._open, *([self._accepting] if self._accepting is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                link, _ = await loop.sock_accept(listener)
            except OSError:  # no descriptors left, or it hung up already
                await asyncio.sleep(1.0)
                continue
            if len(self._open) >= MOST_OPEN:
                next(iter(self._open)).cancel()
            task = asyncio.create_task(self._answer(link))
            self._open[task] = None
            task.add_done_callback(lambda done: self._open.pop(done, None))
            await asyncio.sleep(PAUSE_SECONDS)

    async def _answer(self, link: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with link, suppress(OSError, TimeoutError):
            link.setblocking(False)
            async with asyncio.timeout(SECONDS):
                request = b""
                while b"\r\n\r\n" not in request and len(request) <= MOST_BYTES:
                    more = await loop.sock_recv(link, MOST_BYTES)
                    if not more:
                        return
                    request += more
                await loop.sock_sendall(link, await self.reply(request))
                link.shutdown(socket.SHUT_WR)

    async def reply(self, request: bytes) -> bytes:
        """The answer to a whole request."""
        page, body = await self._page(request), True
        if request.startswith(b"HEAD "):
            body = False
        head = (
            f"HTTP/1.1 {page.status.value} {page.status.phrase}\r\nContent-Type: {page.kind}\r\n"
            f"Content-Length: {len(page.body)}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
            "Connection: close\r\n\r\n"
        )
        return head.encode() + (page.body if body else b"")

    async def _page(self, request: bytes) -> Page:
        words = request.split(b"\r\n", 1)[0].split(b" ")
        if len(request) > MOST_BYTES or len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return Page(b"no request of HTTP/1.1 of some lines\n", HTTPStatus.BAD_REQUEST)
        if words[0] not in (b"GET", b"HEAD"):
            return Page(b"only GET\n", HTTPStatus.METHOD_NOT_ALLOWED)
        page = self._pages.get(words[1].split(b"?", 1)[0].decode("ascii", "replace"))
        if page is None:
            return Page((" ".join(self._pages) + "\n").encode(), HTTPStatus.NOT_FOUND)
        try:
            return await page()
        except Exception:
            log.exception("the page %s failed", words[1].decode("ascii", "replace"))
            return Page(b"it failed: see the log\n", HTTPStatus.INTERNAL_SERVER_ERROR)
