"""Who counts as one source of connections to the web UI: an IPv6 host picks its address freely in its /64."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from segctl_controller.web import listener
from segctl_controller.web.tls import Pair
from starlette.responses import PlainTextResponse

from tests.netns.spaces import Space
from tests.unit.segctl.cli.pki import Authority

pytestmark = pytest.mark.kernel

ADDRESSES = ("fd77:0:0:1::1", "fd77:0:0:1::2", "fd77:0:0:1:ffff::3", "fd77:0:0:2::1")


@pytest.fixture
def space() -> Iterator[Space]:
    with closing(Space()) as made:
        yield made


def test_a_64_of_ipv6_is_one_source(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MOST_OF_ONE", 2)
    pair = Pair(*Authority().issue("https://web"))

    async def who_is_let_in() -> list[bool]:
        served = listener.Listener(PlainTextResponse("x"), lambda: pair)
        port = served.start("::", 0)
        with ExitStack() as links:
            made = []
            for address in ADDRESSES:
                link = socket.create_connection(("::1", port), 5, (address, 0))
                made.append(links.enter_context(link))
            let_in = [await asyncio.to_thread(_stays, link) for link in made]
        await served.stop()
        return let_in

    def inside() -> list[bool]:
        for address in ADDRESSES:
            subprocess.run(["ip", "addr", "add", f"{address}/128", "dev", "lo", "nodad"], check=True)
        return asyncio.run(who_is_let_in())

    assert space.run(inside) == [True, True, False, True]


def _stays(link: socket.socket) -> bool:
    link.settimeout(1)
    try:
        return link.recv(1) != b""
    except TimeoutError:
        return True
    except ConnectionError:
        return False
