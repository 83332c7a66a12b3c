"""What the two sides of a denied connection see, for each answer, on the real table; and that the agent still learns
whose it was."""

from __future__ import annotations

import asyncio
import errno
import json
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import pytest
from segctl.model.hostpolicy import LocalWorkload
from segctl.model.policy import Answer, Mode, Process, ProcessKind
from segctl_agent.denials.values import Denial
from segctl_agent.facts.values import HostFacts
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.plan import plan
from segctl_agent.render import denied_counters

from tests.decided import rendered
from tests.netns.samples import policy
from tests.netns.spaces import CGROUPS, in_namespaces, run
from tests.netns.station import UNIT, Station, program

pytestmark = pytest.mark.kernel

T = TypeVar("T")
HOST = {4: "10.78.0.1", 6: "fd78::1"}
REMOTE = {4: "10.78.0.2", 6: "fd78::2"}
PROHIBITED = {4: errno.EHOSTUNREACH, 6: errno.EACCES}  # as net/ipv4/icmp.c and net/ipv6/icmp.c translate the error
WAIT = 2.5
SYNS = {2, 3}
"""How many SYNs a connect sends in this time: one more after a second and, since Linux 6.5, another after two
(net.ipv4.tcp_syn_linear_timeouts)."""

PROBE = """
import json, socket, sys, time
kind, remote, start = socket.SOCK_%(kind)s, ('%(remote)s', 7001), time.monotonic()
s = socket.socket(socket.AF_INET6 if ':' in remote[0] else socket.AF_INET, kind)
s.settimeout(%(wait)f)
try:
    s.connect(remote)
    if kind == socket.SOCK_DGRAM:
        s.send(b'x')
        s.recv(8)
    code = 0
except TimeoutError:
    code = -1
except OSError as e:
    code = e.errno
print(json.dumps([code, time.monotonic() - start]), flush=True)
sys.stdin.read()
"""
LISTEN = """
sockets = []
for family, address in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        s = socket.socket(family, kind)
        if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.bind((address, 7001))
        if kind == socket.SOCK_STREAM: s.listen()
        sockets.append(s)
print('up', flush=True)
sys.stdin.read()
"""
Kind = Literal["STREAM", "DGRAM"]


class Seen(NamedTuple):
    """What a program saw: errno (-1: nothing within WAIT), after how many seconds; and what the agent told of it."""

    code: int
    seconds: float
    pid: int
    denials: list[Denial]
    counted: int


class Answering(Station):
    """A host with a neighbour. Its unit may neither connect nor be connected to."""

    def __init__(self, outgoing: Answer, incoming: Answer) -> None:
        self.neighbour = subprocess.Popen(["unshare", "-n", "sleep", "300"])
        own = Path("/proc/self/ns/net").readlink()
        namespace = Path(f"/proc/{self.neighbour.pid}/ns/net")
        while namespace.readlink() == own:
            pass
        run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "wire")
        run("ip", "link", "set", "wire", "netns", str(self.neighbour.pid))
        for enter, link, end in (((), "eth0", HOST), (self.there, "wire", REMOTE)):
            run(*enter, "ip", "addr", "add", f"{end[4]}/24", "dev", link)
            run(*enter, "ip", "addr", "add", f"{end[6]}/64", "dev", link, "nodad")
            run(*enter, "ip", "link", "set", link, "up")
        super().__init__()
        unit = Process(ProcessKind.UNIT, "shop.service")
        self.policy = policy(LocalWorkload("shop", unit, Mode.ENFORCE, outgoing=outgoing, incoming=incoming))
        self.kernel = NetlinkKernel()
        facts = HostFacts(cgroups={UNIT: (CGROUPS / UNIT).stat().st_ino})
        self.kernel.apply(plan(None, rendered(self.policy, facts, 1)))

    @property
    def there(self) -> tuple[str, ...]:
        """Before a command: in the neighbour's network."""
        return ("nsenter", "-t", str(self.neighbour.pid), "-n")

    @property
    def counted(self) -> int:
        return sum(denied_counters(self.kernel.counters(), self.policy).values())

    async def outgoing(self, version: int, kind: Kind) -> Seen:
        code = PROBE % {"kind": kind, "remote": REMOTE[version], "wait": WAIT}
        client = await program(code)
        assert client.stdout is not None
        answer = json.loads((await client.stdout.readline()).split(b" ", 1)[1])
        await self.told.until(lambda: self.told.packets >= self.counted)
        await client.communicate(b"")
        return Seen(*answer, client.pid, self.told.denials, self.counted)

    async def incoming(self, version: int, kind: Kind) -> Seen:
        server = await program(LISTEN)
        assert server.stdout is not None
        await server.stdout.readline()
        code = PROBE % {"kind": kind, "remote": HOST[version], "wait": WAIT}
        client = await asyncio.create_subprocess_exec(
            *self.there, "/usr/bin/python3", "-c", code, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert client.stdout is not None
        answer = json.loads(await client.stdout.readline())
        await self.told.until(lambda: self.told.packets >= self.counted)
        await client.communicate(b"")
        await server.communicate(b"")
        return Seen(*answer, server.pid, self.told.denials, self.counted)

    def close(self) -> None:
        self.neighbour.kill()
        self.neighbour.wait()
        self.kernel.close()
        super().close()


def answering(
    body: Callable[[Answering], Coroutine[Any, Any, T]],
    outgoing: Answer = Answer.REJECT,
    incoming: Answer = Answer.DROP,
) -> T:
    async def main() -> T:
        station = Answering(outgoing, incoming)
        try:
            return await body(station)
        finally:
            station.close()

    return in_namespaces(lambda: asyncio.run(main()))


def names_its_process(seen: Seen, kind: Kind) -> bool:
    """Every denial names the unit's process; one with a UDP socket may have closed it."""
    return all(
        d.workload == "shop" and d.process.pid == seen.pid and d.protocol == ("tcp" if kind == "STREAM" else "udp")
        for d in seen.denials
    )


@pytest.mark.parametrize("version", [4, 6])
def test_outgoing_reject(version: int) -> None:
    tcp = answering(lambda station: station.outgoing(version, "STREAM"))
    assert tcp.code == PROHIBITED[version]
    assert 0.9 < tcp.seconds < 2
    assert (tcp.counted, names_its_process(tcp, "STREAM")) == (1, True)
    udp = answering(lambda station: station.outgoing(version, "DGRAM"))
    assert udp.code == errno.EPERM
    assert udp.seconds < 0.5
    assert (udp.counted, names_its_process(udp, "DGRAM")) == (1, True)


@pytest.mark.parametrize("version", [4, 6])
def test_outgoing_drop(version: int) -> None:
    tcp = answering(lambda station: station.outgoing(version, "STREAM"), outgoing=Answer.DROP)
    assert tcp.code == -1
    assert tcp.counted in SYNS  # nothing remembers a connection that is not answered
    assert names_its_process(tcp, "STREAM")
    udp = answering(lambda station: station.outgoing(version, "DGRAM"), outgoing=Answer.DROP)
    assert udp.code == errno.EPERM
    assert names_its_process(udp, "DGRAM")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["STREAM", "DGRAM"])
def test_incoming_drop(version: int, kind: Kind) -> None:
    seen = answering(lambda station: station.incoming(version, kind))
    assert seen.code == -1
    assert seen.counted in (SYNS if kind == "STREAM" else {1})
    assert names_its_process(seen, kind)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["STREAM", "DGRAM"])
def test_incoming_reject(version: int, kind: Kind) -> None:
    seen = answering(lambda station: station.incoming(version, kind), incoming=Answer.REJECT)
    assert seen.code == (errno.ECONNREFUSED if kind == "STREAM" else PROHIBITED[version])
    assert seen.seconds < 0.5
    assert seen.counted == 1
    assert names_its_process(seen, kind)  # the listener is still there, whatever the client was told


@pytest.mark.parametrize("incoming", list(Answer))
def test_broadcast_and_multicast_are_never_answered(incoming: Answer) -> None:
    """To a listener that is denied: no packet leaves the host, and none is told."""
    body = """
import socket
for version, to in ((4, '10.78.0.255'), (4, '224.0.0.1'), (6, 'ff02::1%wire')):
    s = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    if version == 4: s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton('10.78.0.2'))
    else: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex('wire'))
    s.sendto(b'x', socket.getaddrinfo(to, 7001, type=socket.SOCK_DGRAM)[0][4])
"""

    async def sent(station: Answering) -> tuple[int, int, int]:
        server = await program(LISTEN)
        assert server.stdout is not None
        await server.stdout.readline()
        # What the neighbour sent arrived before netfilter's counter of our answers is read.
        run("nft", "add table inet n; add chain inet n o { type filter hook output priority 200; }")
        run("nft", "add rule inet n o meta l4proto { icmp } counter")
        run("nft", "add rule inet n o icmpv6 type destination-unreachable counter")
        run("nft", "add chain inet n i { type filter hook input priority -200; }")
        run("nft", "add rule inet n i meta pkttype != host udp dport 7001 counter")
        run(*station.there, "/usr/bin/python3", "-c", body)
        await asyncio.sleep(0.3)
        counted = [
            int(line.split("packets ")[1].split()[0])
            for line in run("nft", "list table inet n").splitlines()
            if "packets" in line
        ]
        await server.communicate(b"")
        return counted[-1], sum(counted[:-1]), station.counted

    arrived, answered, denied = answering(sent, incoming=incoming)
    assert arrived == 3
    assert (answered, denied) == (0, 0)
