"""What a program sees when its outgoing connection is denied, and what the agent learns of it, on the real table."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from segctl.model.hostpolicy import LocalWorkload
from segctl.model.policy import Mode, Process, ProcessKind
from segctl_agent.denials.values import Denial
from segctl_agent.facts.values import HostFacts
from segctl_agent.nft.digest import kernel_digest
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.operations import AddElements, Batch
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import Ruleset
from segctl_agent.render import denied_counters

from tests.decided import rendered
from tests.netns.samples import policy
from tests.netns.spaces import CGROUPS, in_namespaces, run
from tests.netns.station import UNIT, Station, program

pytestmark = pytest.mark.kernel

T = TypeVar("T")
REMOTES = {4: "10.78.0.2", 6: "fd78::2"}
REFUSED = {4: errno.EHOSTUNREACH, 6: errno.EACCES}  # as net/ipv4/icmp.c and net/ipv6/icmp.c translate the error
SHUT = policy(LocalWorkload("shop", Process(ProcessKind.UNIT, "shop.service"), Mode.ENFORCE))

# As servers do it: a socket that failed is closed at once, the process lives on.
CONNECT = """
import json, select
sockets, ended, poll = {}, {}, select.poll()
def finish(wait):
    for fd, _ in poll.poll(wait):
        s, port, began = sockets[fd]
        poll.unregister(fd)
        ended[port] = (s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), time.monotonic() - began)
        s.close()
for port in range(9000, 9000 + %(count)d):
    start = time.monotonic()
    s = socket.socket(socket.%(family)s)
    s.setblocking(%(blocking)s)
    code = s.connect_ex(('%(remote)s', port))
    if %(blocking)s:
        ended[port] = (code, time.monotonic() - start)
        s.close()
        continue
    sockets[s.fileno()] = (s, port, start)
    poll.register(s, select.POLLOUT)
    finish(0)
while len(ended) < %(count)d: finish(10000)
print(json.dumps(list(ended.values())), flush=True)
sys.stdin.read()
"""


class Refusing(Station):
    """A host with one link, whose unit may connect to nothing."""

    def __init__(self) -> None:
        run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "wire")
        run("ip", "link", "set", "wire", "up")
        run("ip", "link", "set", "eth0", "up")
        run("ip", "addr", "add", "10.78.0.1/24", "dev", "eth0")
        run("ip", "addr", "add", "fd78::1/64", "dev", "eth0", "nodad")
        super().__init__()
        self.kernel = NetlinkKernel()
        facts = HostFacts(cgroups={UNIT: (CGROUPS / UNIT).stat().st_ino})
        self.wanted: Ruleset = rendered(SHUT, facts, 1)
        self.kernel.apply(plan(None, self.wanted))

    async def connect(self, version: int, *, blocking: bool, count: int = 1) -> tuple[int, list[tuple[int, float]]]:
        """(pid, (errno, seconds) of each connection) once every packet that was counted has been told."""
        family = "AF_INET" if version == 4 else "AF_INET6"
        code = CONNECT % {"count": count, "family": family, "blocking": blocking, "remote": REMOTES[version]}
        client = await program(code)
        assert client.stdout is not None
        ended = json.loads((await client.stdout.readline()).split(b" ", 1)[1])
        await self.told.until(lambda: self.told.packets >= self.denied)
        await client.communicate(b"")
        return client.pid, [(number, seconds) for number, seconds in ended]

    @property
    def denied(self) -> int:
        return denied_counters(self.kernel.counters(), SHUT)["out", "shop"]

    def close(self) -> None:
        self.kernel.close()
        super().close()


def refusing(body: Callable[[Refusing], Coroutine[Any, Any, T]]) -> T:
    async def main() -> T:
        station = Refusing()
        result = await body(station)
        station.close()
        return result

    return in_namespaces(lambda: asyncio.run(main()))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("blocking", [True, False])
def test_a_connection_is_denied_once_and_refused_after_a_second(version: int, blocking: bool) -> None:
    async def body(station: Refusing) -> tuple[int, tuple[int, float], list[Denial], int]:
        pid, ended = await station.connect(version, blocking=blocking)
        return pid, ended[0], station.told.denials, station.denied

    pid, (code, seconds), denials, counted = refusing(body)
    print(f"{errno.errorcode[code]} after {seconds:.3f} s")
    assert code == REFUSED[version]
    assert 0.9 < seconds < 1.6
    assert counted == 1
    assert [(d.count, str(d.remote), d.workload) for d in denials] == [(1, REMOTES[version], "shop")]
    assert (denials[0].process.pid, denials[0].process_unknown) == (pid, "")


def test_of_connects_that_do_not_block_every_one_names_its_process() -> None:
    async def body(station: Refusing) -> tuple[int, list[Denial], int, int]:
        pid, ended = await station.connect(4, blocking=False, count=50)
        assert {code for code, _ in ended} == {errno.EHOSTUNREACH}
        return pid, station.told.denials, station.denied, station.told.lost

    pid, denials, counted, lost = refusing(body)
    named = [d for d in denials if d.process.pid == pid]
    print(f"process known for {len(named)} of 50: {sorted({d.process_unknown for d in denials})}")
    assert (counted, lost) == (50, 0)
    assert sorted(d.port for d in named) == list(range(9000, 9050))


def test_the_table_stays_what_was_wanted_while_connections_are_remembered() -> None:
    async def body(station: Refusing) -> None:
        before = station.kernel.generation()
        await station.connect(4, blocking=False, count=20)
        assert station.kernel.generation() == before
        held = station.kernel.read()
        assert held == station.wanted
        assert kernel_digest(held) == kernel_digest(station.wanted)
        # Half a second after the last was answered, the kernel still remembers them.
        assert run("nft", "list", "set", "inet", "segctl", "again4").count("expires") == 20

    refusing(body)


def test_when_the_set_is_full_a_connection_is_answered_at_once() -> None:
    async def body(station: Refusing) -> tuple[tuple[int, float], int]:
        spec = station.wanted.sets["again4"].spec
        keys = {number.to_bytes(12, "big"): None for number in range(spec.size)}
        station.kernel.apply(Batch((AddElements("again4", spec, keys),)))
        _, ended = await station.connect(4, blocking=False)
        return ended[0], station.denied

    (code, seconds), counted = refusing(body)
    assert code == errno.EHOSTUNREACH
    assert seconds < 0.5
    assert counted == 1
