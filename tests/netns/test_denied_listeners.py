"""The listener behind an incoming denial, for every kind of socket."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import pytest
from segctl_agent.denials.values import Denial

from tests.netns.denying import on_station
from tests.netns.spaces import run
from tests.netns.station import Station, program

pytestmark = pytest.mark.kernel

# family of the listener, its address, IPV6_V6ONLY, the address that is connected to
LISTENERS = {
    "exact": ("AF_INET", "127.0.0.1", 0, "127.0.0.1"),
    "wildcard": ("AF_INET", "0.0.0.0", 0, "127.0.0.1"),
    "exact6": ("AF_INET6", "::1", 1, "::1"),
    "wildcard6": ("AF_INET6", "::", 1, "::1"),
    "dual-6": ("AF_INET6", "::", 0, "::1"),
    "dual-4": ("AF_INET6", "::", 0, "127.0.0.1"),
}
LISTEN = """
s = socket.socket(socket.{family}, socket.SOCK_{kind})
if socket.{family} == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, {only})
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, {reuse})
s.bind(('{address}', 7002))
if socket.SOCK_{kind} == socket.SOCK_STREAM: s.listen()
print('up', flush=True)
sys.stdin.readline()
s.setblocking(False)
while True:
    try:
        who = s.accept()[1] if socket.SOCK_{kind} == socket.SOCK_STREAM else s.recvfrom(8)[1]
        print(who[1], flush=True)
    except BlockingIOError:
        break
print('end', flush=True)
sys.stdin.read()
"""


async def listener(kind: str, shape: str, *, reuse: int = 0) -> asyncio.subprocess.Process:
    family, address, only, _ = LISTENERS[shape]
    code = LISTEN.format(family=family, kind=kind, only=only, reuse=reuse, address=address)
    server = await program(code)
    assert server.stdout is not None
    await server.stdout.readline()
    return server


def knock(kind: str, address: str, port: int = 0) -> socket.socket:
    """Connect or send once, without waiting."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    client = socket.socket(family, socket.SOCK_STREAM if kind == "STREAM" else socket.SOCK_DGRAM)
    client.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.bind((address, port))
    with suppress(BlockingIOError):
        client.connect((address, 7002))
    if kind == "DGRAM":
        client.send(b"x")
    return client


@pytest.mark.parametrize("kind", ["STREAM", "DGRAM"])
@pytest.mark.parametrize("shape", LISTENERS)
def test_an_incoming_denial_names_the_listener(kind: str, shape: str):
    remote = LISTENERS[shape][3]

    async def body(station: Station) -> tuple[Denial, int]:
        server = await listener(kind, shape)
        with knock(kind, remote):
            await station.told.until(lambda: bool(station.told.denials))
        await server.communicate(b"")
        return station.told.denials[0], server.pid

    denial, pid = on_station(body)
    assert (denial.ingress, denial.workload, str(denial.remote)) == (True, "db", remote)
    assert (denial.protocol, denial.port) == ("tcp" if kind == "STREAM" else "udp", 7002)
    assert (denial.process.pid, denial.process.user, denial.process.unit) == (pid, "nobody", "shop.service")


@pytest.mark.parametrize("kind", ["STREAM", "DGRAM"])
@pytest.mark.parametrize("shape", ["wildcard", "dual-6"])
def test_of_listeners_that_share_a_port_the_one_that_would_have_had_it_is_named(kind: str, shape: str):
    """SO_REUSEPORT: the kernel chooses by the tuple, so the same tuple, let in, must reach the named process."""
    remote, ports = LISTENERS[shape][3], range(41000, 41006)

    async def body(station: Station) -> tuple[dict[int, int], dict[int, int]]:
        servers = [await listener(kind, shape, reuse=1) for _ in range(2)]
        named = {}
        for port in ports:
            before = len(station.told.denials)
            with knock(kind, remote, port):
                await station.told.until(lambda before=before: len(station.told.denials) > before)
            named[port] = station.told.denials[-1].process.pid
            await asyncio.sleep(1.1)  # so that every one is a denial of its own
        run("nft", "flush chain inet t input")
        clients = [knock(kind, remote, port) for port in named]
        await asyncio.sleep(0.2)
        reached = {}
        for server in servers:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(b"\n")
            while (line := await server.stdout.readline()) != b"end\n":
                reached[int(line)] = server.pid
        for client in clients:
            client.close()
        for server in servers:
            await server.communicate(b"")
        return named, reached

    named, reached = on_station(body)
    assert named == reached


def test_an_incoming_denial_without_a_listener_says_so():
    async def body(station: Station) -> Denial:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", ("127.0.0.1", 7002))
        await station.told.until(lambda: bool(station.told.denials))
        return station.told.denials[0]

    denial = on_station(body)
    assert denial.process_unknown == "nothing listens on udp/7002 here"
