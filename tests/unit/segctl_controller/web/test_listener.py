"""Who holds connections of the web's listener without using them: bounded in number and in time."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import ssl
import struct
import time
import weakref
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from segctl_controller.web import listener

from tests.controller_harness import SECONDS, eventually, running_controller
from tests.unit.segctl_controller.policies import SHOP
from tests.webvisitor import Visitor, api_token, events, signed_in

WEB = {"web": {"port": 0}}
SHORT = 0.5
Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def opened(visitor: Visitor, words: bytes = b"") -> Link:
    context = ssl.create_default_context(cadata=(visitor.lab.state / "ca.pem").read_text())
    reader, writer = await asyncio.open_connection("localhost", visitor.port, ssl=context)
    writer.write(words)
    return reader, writer


async def ends(link: Link) -> float:
    """After how many seconds the listener ends it, whatever it said before."""
    begun = time.monotonic()
    async with asyncio.timeout(SECONDS):
        with suppress(ConnectionError):
            await link[0].read()
    link[1].close()
    return time.monotonic() - begun


def request(visitor: Visitor, path: str, body: bytes = b"", length: int | None = None, method: str = "POST") -> bytes:
    headers = {**visitor.headers(True, {}), "Host": f"localhost:{visitor.port}"}
    headers["Content-Length"] = str(len(body) if length is None else length)
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body


async def test_connections_are_bounded_and_silent_ones_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEAD_SECONDS", SHORT)
    monkeypatch.setattr(listener, "MOST_OF_ONE", 5)
    async with running_controller(tmp_path, **WEB) as lab:
        visitor = Visitor(lab)
        links = [await opened(visitor) for _ in range(5)]
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await opened(visitor)
        for link in links:
            await ends(link)
        await works(visitor)


async def works(visitor: Visitor) -> None:
    """The places are free again, as soon as the listener has heard of the ends."""

    async def served() -> bool:
        with suppress(OSError):  # also ssl.SSLError
            return (await visitor.get("/")).status == 200
        return False

    await eventually(served)


async def test_who_never_begins_tls_is_bounded_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 8 * SHORT)
    monkeypatch.setattr(listener, "MOST_OF_ONE", 5)
    async with running_controller(tmp_path, **WEB) as lab:
        visitor = Visitor(lab)
        kept = [await asyncio.open_connection("127.0.0.1", visitor.port) for _ in range(5)]
        for _ in range(2):
            assert await ends(await asyncio.open_connection("127.0.0.1", visitor.port)) < 4 * SHORT
        elsewhere = socket.create_connection(("127.0.0.1", visitor.port), SECONDS, ("127.0.0.2", 0))
        plain = await asyncio.open_connection(sock=elsewhere)  # another source has its own places
        plain[1].write(b"GET / HTTP/1.1\r\n\r\n")
        assert await ends(plain) < 4 * SHORT  # this is no TLS
        for link in kept:
            await ends(link)
        await works(visitor)


@pytest.mark.parametrize("kept_alive", [False, True])
@pytest.mark.parametrize(
    ("path", "sent", "length"),
    [
        ("", b"POST /api/v1/WhoAmI HTTP/1.1\r\nHost:", 0),
        ("/auth/token", b"{", 100),
        ("/api/v1/WhoAmI", b"{", 100),
    ],
)
async def test_a_request_that_never_ends_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, sent: bytes, length: int, kept_alive: bool
) -> None:
    monkeypatch.setattr(listener, "HEAD_SECONDS", SHORT)
    monkeypatch.setattr(listener, "BODY_SECONDS", SHORT)
    async with running_controller(tmp_path, **WEB) as lab:
        visitor = await signed_in(lab)
        whole = request(visitor, "/", method="GET") if kept_alive else b""
        partly = request(visitor, path, sent, length) if path else sent
        link = await opened(visitor, whole)
        if kept_alive:
            assert await link[0].readuntil(b"</html>")
        link[1].write(partly)

        async def drip() -> None:
            with suppress(ConnectionError):
                while not link[1].is_closing():
                    link[1].write(b" ")
                    await asyncio.sleep(SHORT / 5)

        dripping = asyncio.create_task(drip())
        await ends(link)
        await dripping
        # The same, after the whole request in one piece: the second one was begun before the first was answered.
        if kept_alive:
            await ends(await opened(visitor, whole + partly))


async def test_who_asks_in_time_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEAD_SECONDS", 2 * SHORT)
    monkeypatch.setattr(listener, "BODY_SECONDS", 12 * SHORT)
    async with running_controller(tmp_path, **WEB) as lab:
        await lab.push(SHOP)
        visitor = await signed_in(lab)
        body = json.dumps({"source": {"files": []}}).encode()
        link = await opened(visitor, request(visitor, "/api/v1/Check", body[:5], len(body)))
        await asyncio.sleep(3 * SHORT)  # a large body over a slow line
        link[1].write(body[5:])
        assert (await link[0].readline()).startswith(b"HTTP/1.1 ")
        await link[0].readuntil(b"}")
        await asyncio.sleep(3 * SHORT)  # nothing to ask for a while
        link[1].write(request(visitor, "/", method="GET"))
        assert (await link[0].readline()).endswith(b"200 OK\r\n")
        link[1].close()
        async with events(visitor) as answer:  # a request is whole, and its answer takes long
            await asyncio.sleep(3 * SHORT)
            assert not answer.isclosed()
            assert (await visitor.call("WhoAmI")).status == 200


def reset(link: Link) -> None:
    """The client ends it with a RST."""
    link[1].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link[1].transport.abort()


async def test_a_connection_that_was_reset_is_not_held_until_it_would_have_ended(tmp_path: Path) -> None:
    """Its place is free at once, so what it takes must be, too: else strangers have as much memory as they like."""
    async with running_controller(tmp_path, **WEB) as lab:
        visitor = Visitor(lab)
        link = await opened(visitor, request(visitor, "/", method="GET"))
        await link[0].readuntil(b"</html>")
        gc.unfreeze()
        [held] = [weakref.ref(o) for o in gc.get_objects() if isinstance(o, listener._Bounded)]
        reset(link)

        async def gone() -> bool:
            gc.unfreeze()
            gc.collect()
            return held() is None

        await eventually(gone)


async def test_who_takes_nothing_of_what_it_asked_for_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "STALLED_SECONDS", 2 * SHORT)
    monkeypatch.setattr(listener, "MOST_OF_ONE", 1)
    async with running_controller(tmp_path, **WEB) as lab:
        visitor = Visitor(lab)
        link = await opened(visitor)
        link[1].transport.pause_reading()
        link[1].write(request(visitor, "/app.js", method="GET") * 100)
        await asyncio.sleep(SHORT)
        await works(visitor)
        link[1].transport.abort()


async def test_strangers_write_nothing_into_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running_controller(tmp_path, **WEB) as lab:
        visitor = Visitor(lab)
        caplog.clear()
        await ends(await opened(visitor, b"NO\r\n\r\n"))
        upgrade = request(visitor, "/", method="GET")[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        await ends(await opened(visitor, upgrade.replace(b"Upgrade\r\nU", b"Upgrade, close\r\nU")))
        link = await opened(visitor, request(visitor, "/auth/token", b"{", 100))
        await works(visitor)  # so that one has been read, too
        reset(link)
        await works(visitor)
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


async def test_one_source_of_ipv4_is_one_also_where_it_listens_on_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There an IPv4 address comes as ::ffff:a.b.c.d, all of which are in one /64."""
    monkeypatch.setattr(listener, "MOST_OF_ONE", 3)
    async with running_controller(tmp_path, web={"port": 0, "listen": "::", "names": ["localhost"]}) as lab:
        visitor = Visitor(lab)
        there = ("127.0.0.1", visitor.port)
        held = [socket.create_connection(there, SECONDS, ("127.0.0.2", 0)) for _ in range(3)]
        over = socket.create_connection(there, SECONDS, ("127.0.0.2", 0))
        assert await ends(await asyncio.open_connection(sock=over)) < SECONDS
        assert (await visitor.sign_in(await api_token(lab))).status == 204
        for link in held:
            link.close()


async def test_it_stops_with_connections_of_every_kind(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        async with running_controller(tmp_path, **WEB) as lab:
            visitor = await signed_in(lab)
            port = visitor.port
            links = [await asyncio.open_connection("127.0.0.1", port), await opened(visitor)]
            links.append(await opened(visitor, request(visitor, "/auth/token", b"{", 100)))
            await stack.enter_async_context(events(visitor))
            begun = time.monotonic()
        assert time.monotonic() - begun < SECONDS
        for link in links:
            await ends(link)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_it_stops_with_a_connection_that_was_closed_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio's TLS has nothing left to abort then."""
    async with running_controller(tmp_path, **WEB) as lab:
        visitor = await signed_in(lab)
        link = await opened(visitor)
        link[1].transport.pause_reading()  # the end of TLS is not answered
        await works(visitor)  # so it has heard of the connection, too
        made = [o for o in gc.get_objects() if isinstance(o, listener._Bounded) and o.transport is not None]
        assert made
        for connection in made:
            connection.transport.close()
            connection.transport.close()
    link[1].close()
    assert not [record for record in caplog.records if "the web UI ended" in record.message]
