"""Live sessions when the policy changes: what is still permitted goes on, what lost its permission ends at once."""

from __future__ import annotations

import os
import socket
import struct
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Mode, Process, ProcessKind
from segctl_agent.facts.values import HostFacts
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.plan import plan
from segctl_agent.render import denied_counters, render

from tests.decided import decided
from tests.netns.samples import host_workload, policy, ports
from tests.netns.spaces import Space, join

pytestmark = pytest.mark.kernel

PORT = 7000
GROUP = Group("client", (ip_network("10.78.0.2/32"), ip_network("fd78::2/128")))
OPEN = policy(
    host_workload(Mode.ENFORCE, ingress=(Entry("r", "client", (ports(PORT),), managed=True),)), groups=(GROUP,)
)
MORE = policy(
    host_workload(Mode.ENFORCE, ingress=(Entry("r", "client", (ports(PORT), ports(81)), managed=True),)),
    groups=(GROUP,),
)
CLOSED = policy(host_workload(Mode.ENFORCE))
FACTS = HostFacts(addresses=frozenset({ip_address("10.78.0.1")}))


@pytest.fixture
def pair() -> object:
    """(server's space, client's space), joined."""
    server, client = Space("server"), Space("client")
    join(server, client, "eth0", "eth0")
    for space, last in ((server, 1), (client, 2)):
        space.sh(f"ip addr add 10.78.0.{last}/24 dev eth0; ip addr add fd78::{last}/64 dev eth0 nodad")
    yield server, client
    server.close()
    client.close()


class Session:
    """A connection between the spaces whose ends this process holds: a socket keeps the namespace it was made in."""

    def __init__(self, server: Space, client: Space, version: int, cgroup: str = "") -> None:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        where = "10.78.0.1" if version == 4 else "fd78::1"

        def listening() -> socket.socket:
            if cgroup:
                Path("/sys/fs/cgroup", cgroup, "cgroup.procs").write_text("0")
            sock = socket.socket(family)
            sock.bind((where, PORT))
            sock.listen()
            return sock

        def connected() -> socket.socket:
            return socket.create_connection((where, PORT), timeout=3)

        listener = made_inside(server, listening)
        self.client = made_inside(client, connected)
        self.server, _ = listener.accept()
        listener.close()
        for sock in (self.client, self.server):
            sock.settimeout(1.0)

    def lives(self) -> bool:
        try:
            self.client.send(b"ping")
            if self.server.recv(10) != b"ping":
                return False
            self.server.send(b"pong")
            return self.client.recv(10) == b"pong"
        except OSError:
            return False

    def close(self) -> None:
        self.client.close()
        self.server.close()


def made_inside(space: Space, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket made in the space by a fork, of no unit there and no login session, handed over."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            (space.outer / "cgroup.procs").write_text("0")
            space.enter()
            sock = make()
            socket.send_fds(theirs, [b"x"], [sock.fileno()])
        except OSError:
            traceback.print_exc()
        finally:
            os._exit(0)
    theirs.close()
    _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    ours.close()
    os.waitpid(pid, 0)
    assert fds, "the process in the namespace could not make the socket"
    return socket.socket(fileno=fds[0])


def put(space: Space, wanted: HostPolicy, turn: int) -> None:
    def body() -> None:
        kernel = NetlinkKernel()
        kernel.apply(plan(kernel.read(), render(wanted, FACTS, decided(wanted, turn))))

    space.run(body)


@pytest.mark.parametrize("version", [4, 6])
def test_a_session_survives_a_wider_policy_and_ends_with_its_permission(
    pair: tuple[Space, Space], version: int
) -> None:
    server, client = pair
    put(server, OPEN, 1)
    session = Session(server, client, version)
    assert session.lives()
    put(server, MORE, 1)
    assert session.lives()
    put(server, OPEN, 2)  # narrower, with the next ids: judged again, and still permitted
    assert session.lives()
    put(server, CLOSED, 3)
    start = time.monotonic()
    assert not session.lives()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        session.client.recv(1)
        session.client.send(b"x")
    assert time.monotonic() - start < 2.5
    session.close()

    counted = server.run(lambda: denied_counters(NetlinkKernel().counters(), CLOSED))
    assert counted["in", "host"] >= 1


def test_a_session_that_was_only_tolerated_ends_when_its_workload_enforces(pair: tuple[Space, Space]) -> None:
    server, client = pair
    put(server, policy(host_workload(Mode.TEST)), 1)
    session = Session(server, client, 4)
    assert session.lives()
    put(server, CLOSED, 2)
    assert not session.lives()
    session.close()


def test_the_mark_of_others_is_preserved(pair: tuple[Space, Space]) -> None:
    server, client = pair
    put(server, OPEN, 5)
    server.sh(
        "nft 'add table ip other; add chain ip other c { type filter hook prerouting priority -10; };"
        " add rule ip other c ct state new ct mark set 0x00000045;"
        " add chain ip other d { type filter hook input priority 10; };"
        " add rule ip other d ct mark and 0x0000007f == 0x00000045 ct mark != 0x00000045 counter'"
    )
    session = Session(server, client, 4)
    assert session.lives()
    assert "packets 0" not in server.sh("nft list chain ip other d")
    session.close()


def test_a_session_from_before_the_agent_is_judged_by_the_policy(pair: tuple[Space, Space]) -> None:
    server, client = pair
    permitted, other = Session(server, client, 4), Session(server, client, 6)
    put(server, replace(OPEN, groups=(Group("client", (ip_network("10.78.0.2/32"),)),)), 1)
    assert permitted.lives()
    assert not other.lives()
    permitted.close()
    other.close()


EGRESS = policy(
    host_workload(Mode.ENFORCE, egress=(Entry("r", "server", (ports(PORT),), managed=True),)),
    groups=(Group("server", (ip_network("10.78.0.1/32"), ip_network("fd78::1/128"))),),
)
TRACKING = (
    "nft 'add table inet track; add chain inet track c { type filter hook input priority 50; };"
    " add rule inet track c ct state new accept'"
)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("observed", [False, True])
def test_a_session_that_conntrack_saw_backwards_is_judged_in_both_directions(
    pair: tuple[Space, Space], version: int, observed: bool
) -> None:
    """The server spoke first after conntrack began to look, so that it counts as the one who opened the session."""
    server, client = pair
    session = Session(server, client, version)
    if observed:
        put(client, policy(host_workload(Mode.OBSERVE)), 1)
    else:
        client.sh(TRACKING)
    session.server.send(b"hello")
    assert session.client.recv(10) == b"hello"
    put(client, EGRESS, 2)
    assert session.lives()
    session.server.send(b"more")
    assert session.client.recv(10) == b"more"
    put(client, CLOSED, 3)
    assert not session.lives()
    session.close()


def test_an_old_session_is_no_cover_for_a_new_one(pair: tuple[Space, Space]) -> None:
    """Whoever may be called from here sends a bare ACK from that port to a port it may not reach, then a SYN."""
    server, client = pair
    put(client, EGRESS, 1)

    def listening() -> socket.socket:
        sock = socket.socket()
        sock.bind(("10.78.0.2", 22))
        sock.listen()
        return sock

    listener = made_inside(client, listening)
    server.sh(
        "nft 'add table ip w; add chain ip w i { type filter hook prerouting priority -500; };"
        " add rule ip w i tcp sport 22 tcp flags & (syn|ack) == (syn|ack) counter'"
    )

    # Usually the reset that answers the bare ACK ends the flow at once: here it is lost on the way.
    client.sh(
        "nft 'add table ip lost; add chain ip lost o { type filter hook output priority -300; };"
        " add rule ip lost o tcp flags & rst == rst drop'"
    )

    def attack() -> None:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        for flags in (0x10, 0x10, 0x02):
            raw.sendto(segment("10.78.0.1", "10.78.0.2", PORT, 22, flags), ("10.78.0.2", 0))
            time.sleep(0.05)  # one after the other on the wire

    server.run(attack)
    assert "packets 0" in server.sh("nft list chain ip w i")
    listener.close()


def test_a_session_of_an_unknown_cgroup_is_not_older_than_the_table(pair: tuple[Space, Space]) -> None:
    """It was opened while the host observed. That its server may call back on any port does not let it live."""
    server, client = pair
    called = Entry("r", "server", (ports(1, 65535),), managed=True)
    groups = (Group("server", (ip_network("10.78.0.1/32"),)),)
    shop = Process(ProcessKind.UNIT, "shop.service")
    observing = policy(host_workload(Mode.OBSERVE), LocalWorkload("shop", shop, Mode.OBSERVE), groups=groups)
    closed = policy(host_workload(Mode.ENFORCE, ingress=(called,)), groups=groups)
    path = "system.slice/new.service"
    client.cgroup(path)
    slices = {"system.slice": client.cgroup("system.slice")}

    def connected() -> socket.socket:
        Path("/sys/fs/cgroup", path, "cgroup.procs").write_text("0")
        return socket.create_connection(("10.78.0.1", PORT), timeout=3)

    put(client, observing, 1)
    listener = made_inside(server, lambda: socket.create_server(("10.78.0.1", PORT)))
    ours = made_inside(client, connected)
    theirs, _ = listener.accept()
    for sock in (ours, theirs):
        sock.settimeout(1)
    ours.send(b"word")
    assert theirs.recv(10) == b"word"

    def body() -> None:
        kernel = NetlinkKernel()
        facts = HostFacts(cgroups=slices)
        kernel.apply(plan(kernel.read(), render(closed, facts, decided(closed, 2))))

    client.run(body)
    with pytest.raises((TimeoutError, ConnectionResetError)):
        ours.send(b"more")
        theirs.recv(10)
    for sock in (ours, theirs, listener):
        sock.close()


def test_a_session_outlives_the_cgroup_that_its_socket_was_made_in(pair: tuple[Space, Space]) -> None:
    """As sshd's do when its unit restarts: while the agent remembers the cgroup they are judged as their unit's."""
    server, client = pair
    path = "system.slice/shop.service"
    shop = LocalWorkload(
        "shop", Process(ProcessKind.UNIT, "shop.service"), Mode.ENFORCE, ingress=OPEN.workloads[0].ingress
    )
    wanted = policy(host_workload(Mode.ENFORCE), shop, groups=(GROUP,))
    first = server.cgroup(path)

    def apply(facts: HostFacts, turn: int) -> None:
        def body() -> None:
            kernel = NetlinkKernel()
            kernel.apply(plan(kernel.read(), render(wanted, facts, decided(wanted, turn))))

        server.run(body)

    apply(HostFacts(cgroups={path: first}), 1)
    session = Session(server, client, 4, path)
    assert session.lives()
    server.sh(f"rmdir /sys/fs/cgroup/{path}")
    second = server.cgroup(path)
    assert second != first
    apply(HostFacts(cgroups={path: second}, departed=((path, first),)), 2)
    assert session.lives()
    apply(HostFacts(cgroups={path: second}), 3)
    assert not session.lives()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        session.client.recv(1)
        session.client.send(b"x")
    session.close()


def segment(source: str, destination: str, sport: int, dport: int, flags: int) -> bytes:
    """A TCP header (RFC 9293) with its checksum over the IPv4 pseudo header."""
    header = struct.pack(">HHIIBBHHH", sport, dport, 1000, 2000, 5 << 4, flags, 1024, 0, 0)
    pseudo = ip_address(source).packed + ip_address(destination).packed + struct.pack(">BBH", 0, 6, len(header))
    total = sum(struct.unpack(f">{(len(pseudo) + len(header)) // 2}H", pseudo + header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:16] + struct.pack(">H", ~total & 0xFFFF) + header[18:]
