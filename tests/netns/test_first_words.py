"""Sessions of essentials whose server speaks first after a change, hears of an error, or is older than conntrack will
say: what always passes goes on. A host that only observes drops nothing at all."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Essentials, Mode, Process, ProcessKind
from segctl_agent.facts.values import ContainerFact, Endpoint, HostFacts
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.plan import plan
from segctl_agent.render import denied_counters, render

from tests.decided import decided
from tests.netns.samples import host_workload, policy, ports
from tests.netns.spaces import Space, join
from tests.netns.test_sessions import PORT, Session, made_inside

pytestmark = pytest.mark.kernel

SERVER, CLIENT = "10.78.0.1", "10.78.0.2"
RESCUE = policy(
    host_workload(Mode.ENFORCE),
    essentials=Essentials(
        rescue=(ip_network("10.78.0.2/32"), ip_network("fd78::2/128")),
        rescue_ports=(ports(PORT), ports(PORT, protocol="udp")),
    ),
)
CLOSED = policy(host_workload(Mode.ENFORCE))
NAMES = policy(host_workload(Mode.ENFORCE), essentials=Essentials(dns=(ip_network("10.78.0.1/32"),)))
OBSERVING = policy(host_workload(Mode.OBSERVE))
LOCKED = LocalWorkload("locked", Process(ProcessKind.UNIT, "locked.service"), Mode.ENFORCE)
MIXED = policy(host_workload(Mode.OBSERVE), LOCKED)
TESTING = policy(host_workload(Mode.TEST), LOCKED)
FACTS = HostFacts(addresses=frozenset({ip_address(SERVER), ip_address("fd78::1")}), agent_uid=os.geteuid())
CONTROLLER = replace(FACTS, controller=(Endpoint(ip_address(SERVER), PORT), Endpoint(ip_address("fd78::1"), PORT)))
CHANNEL = replace(CONTROLLER, addresses=frozenset({ip_address(CLIENT), ip_address("fd78::2")}))


@pytest.fixture
def pair() -> Iterator[tuple[Space, Space]]:
    """(server's space, client's space), joined."""
    server, client = Space("server"), Space("client")
    join(server, client, "eth0", "eth0")
    for space, last in ((server, 1), (client, 2)):
        space.sh(f"ip addr add 10.78.0.{last}/24 dev eth0; ip addr add fd78::{last}/64 dev eth0 nodad")
    yield server, client
    server.close()
    client.close()


def put(space: Space, wanted: HostPolicy, facts: HostFacts, turn: int) -> None:
    def body() -> None:
        kernel = NetlinkKernel()
        kernel.apply(plan(kernel.read(), render(wanted, facts, decided(wanted, turn))))

    space.run(body)


def server_speaks(session: Session) -> bool:
    try:
        session.server.send(b"news")
        return session.client.recv(10) == b"news"
    except OSError:
        return False


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("wanted", "facts"), [(RESCUE, FACTS), (CLOSED, CONTROLLER)], ids=["rescue", "controller"])
def test_a_server_of_essentials_may_speak_first_after_a_change(
    pair: tuple[Space, Space], wanted: HostPolicy, facts: HostFacts, version: int
) -> None:
    server, client = pair
    put(server, wanted, facts, 1)
    session = Session(server, client, version)
    assert session.lives()
    put(server, wanted, facts, 2)
    assert server_speaks(session)
    assert session.lives()
    session.close()


@pytest.mark.parametrize("version", [4, 6])
def test_the_controller_may_speak_first_after_a_change_on_the_agents_host(
    pair: tuple[Space, Space], version: int
) -> None:
    server, client = pair
    put(client, CLOSED, CHANNEL, 1)
    session = Session(server, client, version)
    assert session.lives()
    put(client, CLOSED, CHANNEL, 2)
    assert server_speaks(session)
    assert session.lives()
    session.close()


def test_what_the_controller_says_to_another_program_is_no_essential(pair: tuple[Space, Space]) -> None:
    """A session of another user to the controller's port, while the host only observed."""
    server, client = pair
    others = replace(CHANNEL, agent_uid=4711)
    put(client, OBSERVING, others, 1)
    session = Session(server, client, 4)
    assert session.lives()
    put(client, CLOSED, others, 2)
    assert not server_speaks(session)
    session.close()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_the_answer_of_a_name_server_is_heard_after_a_change(
    pair: tuple[Space, Space], kind: socket.SocketKind
) -> None:
    server, client = pair
    put(client, NAMES, FACTS, 1)

    def listening() -> socket.socket:
        sock = socket.socket(socket.AF_INET, kind)
        sock.bind((SERVER, 53))
        if kind is socket.SOCK_STREAM:
            sock.listen()
        return sock

    def asking() -> socket.socket:
        sock = socket.socket(socket.AF_INET, kind)
        sock.connect((SERVER, 53))
        sock.send(b"who?")
        return sock

    names = made_inside(server, listening)
    ours = made_inside(client, asking)
    if kind is socket.SOCK_STREAM:
        names, _ = names.accept()
    question, whom = names.recvfrom(10)
    assert question == b"who?"
    put(client, NAMES, FACTS, 2)
    names.sendto(b"he", whom or ours.getsockname())
    ours.settimeout(1)
    assert ours.recv(10) == b"he"
    names.close()
    ours.close()


def test_the_answer_of_a_name_server_reaches_a_container_after_a_change(pair: tuple[Space, Space]) -> None:
    """The host is its container's name server, the client's address a container's."""
    server, client = pair
    scope = f"machine.slice/libpod-{'ab' * 32}.scope"
    facts = replace(FACTS, containers=(ContainerFact("ab" * 32, "api1", scope, 71, (ip_address(CLIENT),)),))
    api = LocalWorkload("api", Process(ProcessKind.CONTAINER, "api*"), Mode.ENFORCE)
    served = Entry("names", "container", (ports(53, protocol="udp"),), managed=False)
    group = Group("container", (ip_network(CLIENT),))
    wanted = policy(host_workload(Mode.ENFORCE, ingress=(served,)), api, groups=(group,), essentials=NAMES.essentials)
    put(server, wanted, facts, 1)

    def bound(where: str, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((where, port))
        return sock

    names, asking = made_inside(server, lambda: bound(SERVER, 53)), made_inside(client, lambda: bound(CLIENT, 4000))
    asking.sendto(b"who?", (SERVER, 53))
    names.settimeout(1)
    assert names.recv(10) == b"who?"
    put(server, wanted, facts, 2)
    names.sendto(b"he", (CLIENT, 4000))
    asking.settimeout(1)
    assert asking.recv(10) == b"he"
    names.close()
    asking.close()


def test_a_datagram_server_of_the_rescue_list_may_speak_first_after_a_change(pair: tuple[Space, Space]) -> None:
    server, client = pair
    put(server, RESCUE, FACTS, 1)

    def bound(where: str) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((where, PORT))
        sock.settimeout(1)
        return sock

    ours, theirs = made_inside(server, lambda: bound(SERVER)), made_inside(client, lambda: bound(CLIENT))
    theirs.sendto(b"hello", (SERVER, PORT))
    assert ours.recv(10) == b"hello"
    put(server, RESCUE, FACTS, 2)
    ours.sendto(b"news", (CLIENT, PORT))
    theirs.settimeout(1)
    assert theirs.recv(10) == b"news"
    ours.close()
    theirs.close()


@pytest.mark.parametrize(("wanted", "facts"), [(RESCUE, FACTS), (CLOSED, CONTROLLER)], ids=["rescue", "controller"])
def test_an_icmp_error_does_not_end_the_session_that_it_is_about(
    pair: tuple[Space, Space], wanted: HostPolicy, facts: HostFacts
) -> None:
    """conntrack gives the error the entry of the TCP flow: what is written into its mark is in the flow's."""
    server, client = pair
    put(server, wanted, facts, 1)
    session = Session(server, client, 4)
    assert session.lives()
    port = session.client.getsockname()[1]

    def complain() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            for number in range(4):  # the short cut for segments reads a byte of the quoted header
                raw.sendto(too_big(SERVER, CLIENT, PORT, port, number), (SERVER, 0))

    client.run(complain)
    time.sleep(0.1)
    assert server_speaks(session)
    assert session.lives()
    session.close()


STRICT = (
    "nft 'add table inet t; add chain inet t c { type filter hook input priority 0; };"
    " add rule inet t c ct state new counter';"  # conntrack begins to look, and its settings appear
    " echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose; nft delete table inet t"
)
NOTRACK = (
    "nft 'add table inet t;"
    " add chain inet t i { type filter hook prerouting priority raw; }; add rule inet t i notrack;"
    " add chain inet t o { type filter hook output priority raw; }; add rule inet t o notrack'"
)


@pytest.mark.parametrize("wanted", [RESCUE, OBSERVING, MIXED, TESTING], ids=["rescue", "observing", "mixed", "testing"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_session_that_conntrack_calls_invalid_goes_on(
    pair: tuple[Space, Space], wanted: HostPolicy, version: int
) -> None:
    """It is older than conntrack here, and nf_conntrack_tcp_loose is off."""
    server, client = pair
    server.sh(STRICT)
    session = Session(server, client, version)
    put(server, wanted, FACTS, 1)
    assert session.lives()
    assert server_speaks(session)
    session.close()
    denied = server.run(lambda: denied_counters(NetlinkKernel().counters(), wanted))
    assert not any(n for (direction, _), n in denied.items() if direction == "in")


def test_what_conntrack_calls_invalid_is_dropped_and_not_told_where_it_enforces(pair: tuple[Space, Space]) -> None:
    server, client = pair
    server.sh(STRICT)
    session = Session(server, client, 4)
    put(server, CLOSED, FACTS, 1)
    session.client.send(b"word")
    with pytest.raises(TimeoutError):
        session.server.recv(10)
    session.close()
    assert server.run(lambda: denied_counters(NetlinkKernel().counters(), CLOSED))["in", "host"] == 0


def test_a_host_that_observes_passes_what_conntrack_does_not_track(pair: tuple[Space, Space]) -> None:
    server, client = pair
    server.sh(NOTRACK)
    put(server, OBSERVING, FACTS, 1)
    session = Session(server, client, 4)
    assert session.lives()
    session.close()


def too_big(source: str, destination: str, sport: int, dport: int, number: int) -> bytes:
    """ICMP "fragmentation needed" (RFC 1191) about a segment with this identification."""
    header = struct.pack(">BBHHHBBH", 0x45, 0, 1500, number, 0x4000, 64, 6, 0)
    header += ip_address(source).packed + ip_address(destination).packed
    header = header[:10] + checksum(header) + header[12:]
    quoted = header + struct.pack(">HHIIBBHHH", sport, dport, 0, 0, 5 << 4, 0x10, 1024, 0, 0)
    message = struct.pack(">BBHHH", 3, 4, 0, 0, 1400) + quoted
    return message[:2] + checksum(message) + message[4:]


def checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~total & 0xFFFF)


REDIRECT = (
    "nft 'add table inet n; add chain inet n o { type nat hook output priority -100; };"
    f" add rule inet n o meta l4proto {{ tcp, udp }} th dport 80 redirect to :{PORT}'"
)


@pytest.mark.parametrize("there", [CLIENT, "fd78::2"])
def test_what_a_host_redirects_to_a_port_of_its_own_is_loopback(pair: tuple[Space, Space], there: str) -> None:
    server, _ = pair
    server.sh(REDIRECT)
    put(server, CLOSED, FACTS, 1)
    family = socket.AF_INET6 if ":" in there else socket.AF_INET

    def listening() -> socket.socket:
        return socket.create_server(("", PORT), family=family)

    def connected() -> socket.socket:
        return socket.create_connection((there, 80), timeout=1)

    with made_inside(server, listening) as listener, made_inside(server, connected) as ours:
        proxy, _ = listener.accept()
        for sender, receiver in ((ours, proxy), (proxy, ours)):
            receiver.settimeout(1)
            sender.send(b"word")
            assert receiver.recv(10) == b"word"
        put(server, CLOSED, FACTS, 2)
        proxy.send(b"more")
        assert ours.recv(10) == b"more"
        ours.send(b"more")
        assert proxy.recv(10) == b"more"
        proxy.close()
