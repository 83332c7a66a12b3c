"""A policy change in the middle of a handshake: a connection that is still permitted is not cut, another one is.

The kernel knows no cgroup for half a handshake, so its last step cannot be judged by process.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from segctl.model.hostpolicy import HostPolicy
from segctl_agent.enforcer import Enforcer
from segctl_agent.nft.kernel import NetlinkKernel

from bench.policies import SERVER, SERVER_UNIT, make_units, sandbox_facts, server_policy, unit_path
from bench.sandbox import join_cgroup, run_nft
from bench.wire import Wire, client_address
from tests.netns.spaces import Space

pytestmark = pytest.mark.kernel

PORT = 8080
HOLD_THE_LAST_STEP = """table inet hold {
  chain out {
    type filter hook output priority 0; policy accept;
    tcp flags & (syn | ack | rst) == ack drop
  }
}
"""


@contextmanager
def half_a_handshake(wire: Wire, listener: socket.socket) -> Iterator[socket.socket]:
    """A client that has its SYN-ACK and whose answer did not get out. Afterwards everything gets out again."""
    with wire.client.entered():
        run_nft(HOLD_THE_LAST_STEP)
        client = socket.socket()
        client.settimeout(3)
        client.bind((str(client_address(0)), 0))
        client.connect((str(SERVER), PORT))
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
        yield client
        run_nft("delete table inet hold")
    listener.settimeout(3)


@contextmanager
def enforced_server(policy: HostPolicy) -> Iterator[tuple[Wire, Enforcer, socket.socket]]:
    make_units((SERVER_UNIT,))
    with Wire() as wire:
        join_cgroup(unit_path(SERVER_UNIT))
        with wire.server.entered():
            kernel = NetlinkKernel()
            listener = socket.create_server(("", PORT))
        join_cgroup("init.scope")
        enforcer = Enforcer(kernel, lambda _: {}, 0)
        enforcer.cgroups_changed(sandbox_facts(SERVER).cgroups, {})
        enforcer.put(policy)
        yield wire, enforcer, listener
        kernel.close()


def narrower(policy: HostPolicy, group: str) -> HostPolicy:
    """Without the first address of `group`."""
    groups = tuple(
        replace(g, hosts=g.hosts.changed(removed=[next(iter(g.hosts))])) if g.name == group else g
        for g in policy.groups
    )
    return replace(policy, generation=policy.generation + 1, groups=groups)


def test_a_handshake_that_is_still_permitted_survives_a_narrowing_elsewhere(space: Space) -> None:
    def inside() -> tuple[bool, bytes, bytes]:
        policy = server_policy(10)
        with enforced_server(policy) as (wire, enforcer, listener):
            with half_a_handshake(wire, listener) as client:
                before = enforcer.decisions
                enforcer.put(narrower(policy, "db"))
            client.send(b"a")
            served, _ = listener.accept()
            served.settimeout(3)
            first = served.recv(1)
            client.send(b"b")
            return enforcer.decisions != before, first, served.recv(1)

    assert space.run(inside) == (True, b"a", b"b")


def test_a_handshake_that_is_no_longer_permitted_ends_with_its_first_whole_socket(space: Space) -> None:
    def inside() -> tuple[bytes, str]:
        policy = server_policy(10)
        with enforced_server(policy) as (wire, enforcer, listener):
            with half_a_handshake(wire, listener) as client:
                enforcer.put(narrower(policy, "web"))
            client.send(b"a")
            served, _ = listener.accept()
            served.setblocking(False)
            arrived = served.recv(10)
            client.send(b"b")
            try:
                client.recv(1)
            except ConnectionResetError as error:
                end = type(error).__name__
            else:
                end = "open"
            try:
                arrived += served.recv(10)
            except (BlockingIOError, ConnectionResetError):  # its own acknowledgement was refused too
                return arrived, end
            return arrived, end

    assert space.run(inside) == (b"a", "ConnectionResetError")
