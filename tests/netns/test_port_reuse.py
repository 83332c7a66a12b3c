"""conntrack remembers a flow longer than its socket lives: another process on the same port is not let pass by it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network

import pytest
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Mode, PortRange, Process, ProcessKind
from segctl_agent.enforcer import Enforcer
from segctl_agent.nft.kernel import NetlinkKernel

from bench.policies import CLIENT, SERVER, make_units, sandbox_facts, unit_path
from bench.sandbox import join_cgroup, run_nft
from bench.wire import Wire
from tests.netns.spaces import Space

pytestmark = pytest.mark.kernel

MAY, MAY_NOT = "shop.service", "other.service"
REMOTE = (str(CLIENT), 9999)
LOCAL_PORT = 40000
DEAF = "table inet deaf { chain in { type filter hook input priority 0; tcp flags syn drop; }; }"


def workload(unit: str, mode: Mode, egress: tuple[Entry, ...] = ()) -> LocalWorkload:
    return LocalWorkload(unit.removesuffix(".service"), Process(ProcessKind.UNIT, unit), mode, egress=egress)


def policy(mode: Mode) -> HostPolicy:
    ports = (PortRange("tcp", REMOTE[1], REMOTE[1]), PortRange("udp", REMOTE[1], REMOTE[1]))
    return HostPolicy(
        host="server",
        generation=1,
        policy_digest="",
        workloads=(
            LocalWorkload("host", None, mode),
            workload(MAY_NOT, mode),
            workload(MAY, mode, (Entry("shop-out", "remote", ports, True),)),
        ),
        groups=(Group("remote", (ip_network(f"{CLIENT}/32"),)),),
    )


@contextmanager
def applied(mode: Mode) -> Iterator[tuple[Wire, Enforcer]]:
    make_units((MAY, MAY_NOT))
    with Wire() as wire:
        with wire.server.entered():
            kernel = NetlinkKernel()
            enforcer = Enforcer(kernel, lambda _: {}, 0)
            enforcer.cgroups_changed(sandbox_facts(SERVER).cgroups, {})
            enforcer.put(policy(mode))
        yield wire, enforcer
        kernel.close()


@contextmanager
def bound(wire: Wire, unit: str, kind: socket.SocketKind) -> Iterator[socket.socket]:
    join_cgroup(unit_path(unit))
    with wire.server.entered(), socket.socket(socket.AF_INET, kind) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((str(SERVER), LOCAL_PORT))
        join_cgroup("init.scope")
        yield made


def test_a_datagram_of_another_process_does_not_go_on_with_a_flow(space: Space) -> None:
    def inside() -> tuple[bytes, str]:
        with applied(Mode.ENFORCE) as (wire, _):
            with wire.client.entered():
                sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sink.bind(REMOTE)
                sink.settimeout(2)
            with bound(wire, MAY, socket.SOCK_DGRAM) as first:
                first.sendto(b"shop", REMOTE)
                arrived = sink.recv(100)
            with bound(wire, MAY_NOT, socket.SOCK_DGRAM) as second:
                try:
                    second.sendto(b"other", REMOTE)
                except PermissionError:
                    return arrived, "refused"
                return arrived, sink.recv(100).decode()

    assert space.run(inside) == (b"shop", "refused")


def test_a_syn_of_another_process_does_not_go_on_with_an_unanswered_one(space: Space) -> None:
    def inside() -> tuple[str, str]:
        with applied(Mode.ENFORCE) as (wire, _):
            with wire.client.entered():
                listener = socket.create_server(REMOTE)
                run_nft(DEAF)
            with bound(wire, MAY, socket.SOCK_STREAM) as first:
                first.settimeout(0.2)
                try:
                    first.connect(REMOTE)
                    unanswered = "answered"
                except TimeoutError:
                    unanswered = "unanswered"
            with wire.client.entered():
                run_nft("delete table inet deaf")
            with bound(wire, MAY_NOT, socket.SOCK_STREAM) as second:
                second.settimeout(3)
                try:
                    second.connect(REMOTE)
                except OSError:
                    return unanswered, "refused"
                finally:
                    listener.close()
                return unanswered, "connected"

    assert space.run(inside) == ("unanswered", "refused")


def test_in_mode_test_a_flow_of_datagrams_is_counted_once(space: Space) -> None:
    def inside() -> tuple[list[bytes], int]:
        with applied(Mode.TEST) as (wire, enforcer):
            with wire.client.entered():
                sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sink.bind(REMOTE)
                sink.settimeout(2)
            with bound(wire, MAY_NOT, socket.SOCK_DGRAM) as second:
                for _ in range(3):
                    second.sendto(b"other", REMOTE)
            return [sink.recv(100) for _ in range(3)], enforcer.counters()["end_other_out"]

    assert space.run(inside) == ([b"other"] * 3, 1)
