"""The pages for monitoring, over real connections, of the kind and of the hostile."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from segctl import statuspage
from segctl.errors import StateError
from segctl.statuspage import MOST_BYTES, MOST_OPEN, Page, StatusPage, Where, parse_where, verdict


@asynccontextmanager
async def serving(page: Callable[[], Page] = lambda: Page(b"ok\n")) -> AsyncIterator[Where]:
    async def answer() -> Page:
        return page()

    status = StatusPage({"/healthz": answer})
    try:
        yield status.start(Where("127.0.0.1", 0))
    finally:
        await status.close()


async def ask(where: Where, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(where.host, where.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_page_and_its_headers() -> None:
    async with serving() as where:
        head, _, body = (await ask(where, b"GET /healthz?x=1 HTTP/1.1\r\nHost: x\r\n\r\n")).partition(b"\r\n\r\n")
        assert body == b"ok\n"
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Length: 3" in head
        assert b"Connection: close" in head
        headed = await ask(where, b"HEAD /healthz HTTP/1.0\r\n\r\n")
        assert headed.endswith(b"\r\n\r\n")
        assert b"Content-Length: 3" in headed


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"POST /healthz HTTP/1.1\r\n\r\n", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /healthz SMTP\r\n\r\n", 400),
        (b"\xff\xfe \xff \xff\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * MOST_BYTES + b"\r\n\r\n", 400),
    ],
)
async def test_what_is_no_request_for_a_page(request_: bytes, status: int) -> None:
    async with serving() as where:
        assert (await ask(where, request_)).startswith(f"HTTP/1.1 {status} ".encode())


async def test_a_page_that_fails_says_so() -> None:
    def page() -> Page:
        raise KeyError("secret")

    async with serving(page) as where:
        answer = await ask(where, b"GET /healthz HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"secret" not in answer


async def test_the_silent_are_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statuspage, "SECONDS", 0.2)
    async with serving() as where:
        began = time.monotonic()
        assert await ask(where, b"GET /heal") == b""
        assert time.monotonic() - began < 2


async def test_a_crowd_of_the_silent_keeps_nobody_out() -> None:
    async with serving() as where:
        crowd = [await asyncio.open_connection(where.host, where.port) for _ in range(2 * MOST_OPEN)]
        began = time.monotonic()
        assert (await ask(where, b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"ok\n")
        assert time.monotonic() - began < 2
        assert (await crowd[0][0].read()) == b""  # the oldest made room
        for _, writer in crowd:
            writer.close()


async def test_no_more_than_some_are_taken_up_in_a_second() -> None:
    asked = 0

    def page() -> Page:
        nonlocal asked
        asked += 1
        return Page(b"ok\n")

    async with serving(page) as where:

        async def flood() -> None:
            while True:
                await ask(where, b"GET /healthz HTTP/1.1\r\n\r\n")

        flooding = [asyncio.create_task(flood()) for _ in range(5)]
        await asyncio.sleep(1.0)
        for task in flooding:
            task.cancel()
        await asyncio.gather(*flooding, return_exceptions=True)
    assert 5 < asked <= 60


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StateError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            StatusPage({}).start(Where("127.0.0.1", port))
    with pytest.raises(StateError, match="is no address"):
        StatusPage({}).start(Where("no.such.name", 1))


def test_where() -> None:
    assert parse_where("127.0.0.1:7446") == Where("127.0.0.1", 7446)
    assert str(parse_where("[::1]:7446")) == "[::1]:7446"
    assert parse_where("off") is None
    for text in ("", "7446", "127.0.0.1", "127.0.0.1:", ":7446", "::1:7446", "a:99999", "a:\u0661"):
        with pytest.raises(ValueError, match="is not HOST:PORT"):
            parse_where(text)


def test_a_verdict_is_503_with_its_reasons() -> None:
    assert verdict(()) == Page(b"ok\n")
    page = verdict(("released", "behind"))
    assert (page.status.value, page.body) == (503, b"released\nbehind\n")
