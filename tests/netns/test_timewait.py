"""A connection from the port of one that the server just closed: the kernel finds a TIME_WAIT socket and no cgroup."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Mode, Process, ProcessKind
from segctl_agent.facts.values import HostFacts
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.plan import plan
from segctl_agent.render import render

from tests.decided import decided
from tests.netns.samples import host_workload, networks, policy, ports
from tests.netns.spaces import Space, join
from tests.netns.test_sessions import made_inside

pytestmark = pytest.mark.kernel

PORT, CLIENTS_PORT = 7000, 40000
UNIT = "system.slice/shop.service"
CLIENT = Group("client", networks("10.78.0.2/32"))
SHOP = LocalWorkload(
    "shop",
    Process(ProcessKind.UNIT, "shop.service"),
    Mode.ENFORCE,
    ingress=(Entry("r", "client", (ports(PORT),), managed=True),),
)
OPEN = policy(host_workload(Mode.ENFORCE), SHOP, groups=(CLIENT,))
CLOSED = policy(host_workload(Mode.ENFORCE), LocalWorkload("shop", SHOP.process, Mode.ENFORCE), groups=(CLIENT,))


class Shop:
    def __init__(self, server: Space, client: Space) -> None:
        self._server, self._client = server, client
        self.facts = HostFacts(cgroups={UNIT: server.cgroup(UNIT)})
        self.listener = made_inside(server, self._listening)
        self.listener.settimeout(1)

    def put(self, wanted: HostPolicy, turn: int) -> None:
        def body() -> None:
            kernel = NetlinkKernel()
            kernel.apply(plan(kernel.read(), render(wanted, self.facts, decided(wanted, turn))))

        self._server.run(body)

    def _listening(self) -> socket.socket:
        Path("/sys/fs/cgroup", UNIT, "cgroup.procs").write_text("0")
        return socket.create_server(("10.78.0.1", PORT))

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """(client's end, server's end), always from the same port. TimeoutError when the SYN is lost."""

        def calling() -> socket.socket:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("10.78.0.2", CLIENTS_PORT))
            sock.settimeout(2.5)
            sock.connect(("10.78.0.1", PORT))
            return sock

        theirs = made_inside(self._client, calling)
        theirs.settimeout(2.5)
        ours, _ = self.listener.accept()
        ours.settimeout(1)
        return theirs, ours

    def close_first(self) -> None:
        """A session that the server ends: its end waits for a minute."""
        theirs, ours = self.connect()
        ours.close()
        assert theirs.recv(1) == b""
        theirs.close()


@pytest.fixture
def shop() -> Iterator[Shop]:
    with spaces() as (server, client):
        yield Shop(server, client)


@contextmanager
def spaces() -> Iterator[tuple[Space, Space]]:
    server, client = Space("server"), Space("client")
    join(server, client, "eth0", "eth0")
    for space, last in ((server, 1), (client, 2)):
        space.sh(f"ip addr add 10.78.0.{last}/24 dev eth0")
    try:
        yield server, client
    finally:
        server.close()
        client.close()


def test_a_port_that_is_used_again_at_once_is_served(shop: Shop) -> None:
    shop.put(OPEN, 1)
    for _ in range(3):
        shop.close_first()
    theirs, ours = shop.connect()
    theirs.send(b"ask")
    assert ours.recv(10) == b"ask"
    ours.send(b"answer")
    assert theirs.recv(10) == b"answer"
    shop.put(CLOSED, 2)
    theirs.send(b"more")
    with pytest.raises((TimeoutError, ConnectionResetError)):
        ours.recv(10)


@pytest.mark.parametrize("server_first", [False, True])
def test_a_port_that_is_used_again_is_no_way_around_the_policy(shop: Shop, server_first: bool) -> None:
    """A handshake, at the most: the first packet with a whole socket is judged."""
    shop.put(OPEN, 1)
    shop.close_first()
    shop.put(CLOSED, 2)
    theirs, ours = shop.connect()
    sender, receiver = (ours, theirs) if server_first else (theirs, ours)
    sender.send(b"word")
    with pytest.raises((TimeoutError, ConnectionResetError)):
        receiver.recv(10)
