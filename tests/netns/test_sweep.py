"""Sessions that send nothing end with their permission; their neighbours do not notice."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import Mode, PortRange, Process, ProcessKind
from segctl_agent.conntrack.reader import ConntrackReader
from segctl_agent.flows.decisions import DecisionId, RecentDecisions
from segctl_agent.flows.sockets import SocketPlaces
from segctl_agent.flows.sweep import Sweeper, Swept
from segctl_agent.identity import Identity

from tests.netns.spaces import CGROUPS, run
from tests.netns.twohosts import HERE, HERE6, THERE, THERE6, TwoHosts, server, session, talks
from tests.patience import patience
from tests.unit.segctl_agent.flows.rows import Layout, entry, policy, tcp

pytestmark = pytest.mark.kernel

TCP_REPAIR = 19  # linux/tcp.h
UNIT = "system.slice/shop.service"
MARKED = """
table inet marked {
  chain out {
    type filter hook output priority 0;
    tcp dport { 5432, 5433 } ct mark set 0x00200000
    tcp dport 5434 ct mark set 0x00300000
    udp dport { 53, 54 } ct mark set 0x00200000
  }
  chain in {
    type filter hook input priority 0;
    tcp dport { 443, 444 } ct mark set 0x00000400
  }
}
"""
KEPT = LocalWorkload(
    "shop",
    Process(ProcessKind.UNIT, "shop.service"),
    Mode.ENFORCE,
    ingress=(entry("kept-in", "there", tcp(444)),),
    egress=(entry("kept-out", "there", tcp(5433)),),
)
GROUPS = {"there": (f"{THERE}/32", f"{THERE6}/128")}
NARROW = policy(KEPT, groups=GROUPS)
LIVE: frozenset[DecisionId] = frozenset({("out", 3)})


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    made = TwoHosts()
    try:
        yield made
    finally:
        made.close()


def in_the_unit() -> None:
    """The process joins the unit's cgroup: its sockets are the workload's from now on."""
    run("nft", "-f", "-", stdin=MARKED)
    (CGROUPS / UNIT).mkdir(parents=True)
    (CGROUPS / UNIT / "cgroup.procs").write_text("0")


def sweep(policy: HostPolicy, path_of: Callable[[int], str | None] | None = None) -> tuple[Swept, float]:
    """What the sweep says, and the milliseconds it took."""
    decisions = RecentDecisions()
    decisions.learn({("out", 2): "shop", ("in", 4): "shop"})
    paths = {(CGROUPS / UNIT).stat().st_ino: UNIT}
    places = SocketPlaces(lambda: Identity(policy, {}), path_of or paths.get)
    sweeper = Sweeper(ConntrackReader(), Layout(), decisions.workload, places)
    began = time.perf_counter()
    swept = sweeper.sweep(policy, LIVE)
    return swept, (time.perf_counter() - began) * 1e3


def ports() -> list[int]:
    return sorted(r.destination_port for rows in ConntrackReader().read() for r in rows if r.mark)


def error_of(end: socket.socket) -> int:
    """The error that waits on a socket; 0 for none within a moment."""
    end.settimeout(0.5)
    try:
        end.recv(16)
    except TimeoutError:
        return 0
    except OSError as error:
        return error.errno or 0
    return -1


@pytest.mark.parametrize(("here", "there"), [(HERE, THERE), (HERE6, THERE6)])
def test_an_idle_outgoing_session_is_gone_and_its_neighbours_stay(hosts: TwoHosts, here: str, there: str) -> None:
    def body() -> None:
        in_the_unit()
        with hosts.over_there():
            listeners = [server(there, port) for port in (5432, 5433, 5434)]
        (cut, peer), (kept, kept_peer), (live, live_peer) = [session(one) for one in listeners]
        swept, took = sweep(NARROW)
        assert (swept.dead, swept.ended, swept.lingering, swept.problems) == (2, 1, 0, {})
        assert took < patience(100)
        assert error_of(cut) == errno.ECONNABORTED
        assert error_of(peer) == errno.ECONNRESET
        assert talks(kept, kept_peer)
        assert talks(live, live_peer)  # under a live id: the kernel's business
        assert ports() == [5433, 5434]
        assert sweep(NARROW)[0] == Swept(dead=1)

    hosts.call(body)


@pytest.mark.parametrize(("here", "there"), [(HERE, THERE), (HERE6, THERE6)])
def test_an_idle_incoming_session_is_gone_and_its_listener_stays(hosts: TwoHosts, here: str, there: str) -> None:
    def body() -> None:
        in_the_unit()
        listeners = [server(here, port) for port in (443, 444)]
        with hosts.over_there():
            (peer, cut), (kept_peer, kept) = [session(one) for one in listeners]
        swept, _ = sweep(NARROW)
        assert (swept.dead, swept.ended, swept.lingering) == (2, 1, 0)
        assert error_of(cut) == errno.ECONNABORTED
        assert error_of(peer) == errno.ECONNRESET
        assert talks(kept, kept_peer)
        with hosts.over_there():
            assert talks(*session(listeners[0]))  # whether a new one may come is the kernel's business

    hosts.call(body)


def test_a_session_whose_socket_is_gone_never_costs_its_listener(hosts: TwoHosts) -> None:
    """The kernel's lookup by tuple falls through to the listener."""

    def body() -> None:
        in_the_unit()
        listener = server(HERE, 443)
        with hosts.over_there():
            peer, gone = session(listener)
        gone.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        gone.close()  # without a word on the wire: conntrack still has the session
        swept, _ = sweep(NARROW)
        assert (swept.dead, swept.ended, swept.forgotten) == (1, 0, 1)
        peer.close()
        with hosts.over_there():
            assert talks(*session(listener))

    hosts.call(body)


def test_datagrams(hosts: TwoHosts) -> None:
    """A connected socket is told; one without a peer serves others too, and only its entry goes."""

    def body() -> None:
        in_the_unit()
        with hosts.over_there():
            far = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(2)]
            for one, port in zip(far, (53, 54), strict=True):
                one.bind((THERE, port))
        connected, free = socket.socket(type=socket.SOCK_DGRAM), socket.socket(type=socket.SOCK_DGRAM)
        connected.connect((THERE, 53))
        connected.send(b"?")
        free.sendto(b"?", (THERE, 54))
        assert ports() == [53, 54]
        swept, _ = sweep(NARROW)
        assert (swept.dead, swept.ended, swept.forgotten, swept.lingering) == (2, 1, 1, 0)
        assert error_of(connected) == errno.ECONNABORTED
        assert error_of(free) == 0
        assert ports() == []

    hosts.call(body)


def test_the_sockets_own_workload_decides_not_the_mark(hosts: TwoHosts) -> None:
    """The policy took the unit out of another workload, whose id the session still bears."""

    def body() -> None:
        in_the_unit()
        with hosts.over_there():
            listener = server(THERE, 5433)
        ends = session(listener)
        moved = policy(
            LocalWorkload("before", Process(ProcessKind.UNIT, "before.service"), Mode.ENFORCE), KEPT, groups=GROUPS
        )
        assert sweep(moved)[0] == Swept(dead=1)
        assert talks(*ends)

    hosts.call(body)


def test_a_socket_of_unknown_cgroup_is_left_to_the_kernel(hosts: TwoHosts) -> None:
    def body() -> None:
        in_the_unit()
        with hosts.over_there():
            listener = server(THERE, 5432)
        ends = session(listener)
        swept, _ = sweep(NARROW, lambda _: None)
        assert (swept.ended, swept.lingering, list(swept.problems)) == (
            0,
            1,
            ["the workload of its socket is not known"],
        )
        assert talks(*ends)

    hosts.call(body)


def test_modes_and_wider_policies_end_nothing(hosts: TwoHosts) -> None:
    def body() -> None:
        in_the_unit()
        with hosts.over_there():
            listener = server(THERE, 5432)
        ends = session(listener)
        for mode in (Mode.OBSERVE, Mode.TEST):
            assert sweep(policy(replace(KEPT, mode=mode), groups=GROUPS))[0] == Swept(dead=1)
        wide = replace(KEPT, egress=(entry("all", "there", PortRange("tcp", 0, 65535)),))
        assert sweep(policy(wide, groups=GROUPS))[0] == Swept(dead=1)
        assert talks(*ends)

    hosts.call(body)


def test_many_idle_sessions_end_in_one_sweep(hosts: TwoHosts) -> None:
    def body() -> float:
        in_the_unit()
        with hosts.over_there():
            listener = socket.create_server((THERE, 5432), backlog=1024)
        ends = [session(listener) for _ in range(300)]
        swept, took = sweep(NARROW)
        assert (swept.dead, swept.ended) == (300, 300)
        assert {error_of(cut) for cut, _ in ends} == {errno.ECONNABORTED}
        return took / 300

    assert hosts.call(body) < 5
