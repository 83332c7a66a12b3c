"""Who a connection belongs to, on the kernel: a process in a slice from its first packet, a socket by its group."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network

import pytest
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Mode, PortRange, Process, ProcessKind
from segctl_agent.enforcer import Enforcer
from segctl_agent.nft.kernel import NetlinkKernel

from bench.policies import CLIENT, SERVER, sandbox_facts
from bench.sandbox import join_cgroup
from bench.wire import Wire
from tests.netns.spaces import CGROUPS, Space

pytestmark = pytest.mark.kernel

REMOTE = (str(CLIENT), 9999)
LISTEN = 9998
GROUP, OTHER = 4, 5
REPEATS = 60
REMOTES = Group("remote", (ip_network(f"{CLIENT}/32"),))
SLICE = "seg.slice/seg-shop.slice"


def policy(process: Process, *others: Process) -> HostPolicy:
    """Only `shop` may reach the remote, and be reached from it; everything enforces."""
    ports = (PortRange("tcp", REMOTE[1], REMOTE[1]), PortRange("tcp", LISTEN, LISTEN))
    entry = (Entry("shop", "remote", ports, True),)
    shop = LocalWorkload("shop", process, Mode.ENFORCE, ingress=entry, egress=entry)
    closed = (LocalWorkload(f"other{n}", p, Mode.ENFORCE) for n, p in enumerate(others))
    workloads = (LocalWorkload("host", None, Mode.ENFORCE), *closed, shop)
    return HostPolicy("server", 1, "", workloads, (REMOTES,))


@contextmanager
def enforced(wanted: HostPolicy, *cgroups: str) -> Iterator[Wire]:
    """No agent follows: what is known of cgroups is what there is now."""
    for path in ("init.scope", *cgroups):
        (CGROUPS / path).mkdir(parents=True, exist_ok=True)
    with Wire() as wire:
        with wire.server.entered():
            kernel = NetlinkKernel()
            enforcer = Enforcer(kernel, lambda _: {}, 0)
            enforcer.cgroups_changed(sandbox_facts(SERVER).cgroups, {})
            enforcer.put(wanted)
            kernel.close()
        with wire.client.entered():
            listener = socket.create_server(REMOTE, backlog=1024)
        yield wire
        listener.close()


def connects(
    wire: Wire, before: Callable[[], object] = lambda: None, after: Callable[[], object] = lambda: None
) -> bool:
    """True when the first SYN passes: a retransmit would come after a second. `before` is called before the socket is
    made, `after` between that and the connect. In a process of its own."""
    pid = os.fork()
    if pid:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, 1), "the process could not even try"
        return code == 0
    try:
        with wire.server.entered():
            before()
            made = socket.socket()
            after()
            made.settimeout(0.9)
            try:
                made.connect(REMOTE)
            except TimeoutError:
                os._exit(1)
            os._exit(0)
    finally:  # a fork of the test must not go on as the test
        os._exit(2)


def first_connections(wire: Wire, place: str, count: int) -> int:
    """How many of `count` processes, each of a cgroup that was made that moment, connect at once."""
    passed = 0
    for n in range(count):
        cgroup = f"{place}/u{n}.service"
        passed += connects(wire, before=lambda where=cgroup: join_cgroup(where))  # type: ignore[misc]
        (CGROUPS / cgroup).rmdir()
    return passed


UNIT = Process(ProcessKind.UNIT, "u*.service")


def test_in_a_slice_every_first_connection_passes_though_nobody_maps_its_cgroup(space: Space) -> None:
    def inside() -> tuple[int, int]:
        with enforced(policy(UNIT), SLICE, "system.slice") as wire:
            return first_connections(wire, SLICE, REPEATS), first_connections(wire, "system.slice", 3)

    assert space.run(inside) == (REPEATS, 0)


def test_a_slice_that_the_policy_names_is_as_good(space: Space) -> None:
    def inside() -> tuple[int, int]:
        with enforced(policy(Process(ProcessKind.UNIT, "batch.slice")), "batch.slice", "other.slice") as wire:
            passed = first_connections(wire, "batch.slice", 10)
            return passed, first_connections(wire, "batch.slice/batch-night.slice", 10)

    assert space.run(inside) == (10, 10)


def _set_file_system_gid() -> None:
    ctypes.CDLL(None).setfsgid(GROUP)


@pytest.mark.parametrize(
    ("before", "after", "passes"),
    [
        (lambda: os.setgid(GROUP), lambda: None, True),
        (lambda: os.setegid(GROUP), lambda: None, True),
        (_set_file_system_gid, lambda: None, True),
        (lambda: os.setgid(GROUP), lambda: os.setgid(OTHER), True),
        (lambda: os.setgid(OTHER), lambda: os.setgid(GROUP), False),
        (lambda: os.setgroups([GROUP]), lambda: None, False),
        (lambda: os.setresgid(GROUP, OTHER, GROUP), lambda: None, False),
    ],
    ids=["gid", "effective gid", "fsgid", "gone since", "too late", "supplementary", "real and saved gid only"],
)
def test_the_group_of_a_socket_is_its_makers_file_system_gid_at_that_moment(
    space: Space, before: Callable[[], object], after: Callable[[], object], passes: bool
) -> None:
    def inside() -> bool:
        with enforced(policy(Process(ProcessKind.GROUP, str(GROUP))), "system.slice/x.service") as wire:

            def start() -> None:
                join_cgroup("system.slice/x.service")
                before()

            return connects(wire, start, after)

    assert space.run(inside) is passes


@pytest.mark.parametrize(
    ("cgroup", "others", "passes"),
    [
        ("system.slice/x.service", (), True),
        ("system.slice/x.service", (Process(ProcessKind.USER, "7"),), False),
        ("system.slice/x.service", (Process(ProcessKind.UNIT, "x.service"),), False),
        ("system.slice/y.service", (Process(ProcessKind.UNIT, "x.service"),), True),
    ],
    ids=["nothing else", "user", "unit", "another unit"],
)
def test_a_unit_and_a_user_go_before_a_group(
    space: Space, cgroup: str, others: tuple[Process, ...], passes: bool
) -> None:
    def inside() -> bool:
        with enforced(policy(Process(ProcessKind.GROUP, str(GROUP)), *others), cgroup) as wire:

            def start() -> None:
                join_cgroup(cgroup)
                os.setgid(GROUP)
                os.setuid(7)

            return connects(wire, start)

    assert space.run(inside) is passes


def test_of_a_listener_the_group_is_not_known(space: Space) -> None:
    """Its ingress is that of the workload host, whoever opened the port."""

    def inside() -> bool:
        with enforced(policy(Process(ProcessKind.GROUP, str(GROUP))), "system.slice/x.service") as wire:
            join_cgroup("system.slice/x.service")
            with wire.server.entered():
                os.setegid(GROUP)
                listener = socket.create_server((str(SERVER), LISTEN))
                os.setegid(0)
            with wire.client.entered(), socket.socket() as made, listener:
                made.settimeout(0.9)
                return made.connect_ex((str(SERVER), LISTEN)) == 0

    assert space.run(inside) is False


def answered(wire: Wire, kind: socket.SocketKind) -> bytes:
    """What the client hears from a listener on the server, which is of the calling process's cgroup."""
    with wire.server.entered():
        listener = socket.socket(socket.AF_INET, kind)
        listener.bind((str(SERVER), LISTEN))
    with wire.client.entered():
        asking = socket.socket(socket.AF_INET, kind)
    with listener, asking:
        for made in (listener, asking):
            made.settimeout(3)
        if kind is socket.SOCK_DGRAM:
            asking.sendto(b"question", (str(SERVER), LISTEN))
            _, client = listener.recvfrom(100)
            listener.sendto(b"answer", client)
        else:
            listener.listen()
            asking.connect((str(SERVER), LISTEN))
            with listener.accept()[0] as session:
                session.sendall(b"answer")
        return asking.recv(100)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
@pytest.mark.parametrize("owner", [ProcessKind.USER, ProcessKind.GROUP])
def test_an_answer_of_the_host_is_no_connection_of_the_sockets_owner(
    space: Space, owner: ProcessKind, kind: socket.SocketKind
) -> None:
    """The listener was judged by its cgroup, and so are its answers."""

    def inside() -> bytes:
        listens = LocalWorkload("host", None, Mode.ENFORCE, ingress=(_entry(kind),))
        owned = LocalWorkload("owned", Process(owner, "0"), Mode.ENFORCE)
        with enforced(HostPolicy("server", 1, "", (listens, owned), (REMOTES,)), "system.slice/x.service") as wire:
            join_cgroup("system.slice/x.service")
            return answered(wire, kind)

    assert space.run(inside) == b"answer"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_what_listens_in_a_users_slice_answers_as_the_user(space: Space, kind: socket.SocketKind) -> None:
    place = "user.slice/user-0.slice/session-1.scope"

    def inside() -> bytes:
        host = LocalWorkload("host", None, Mode.ENFORCE)
        owned = LocalWorkload("owned", Process(ProcessKind.USER, "0"), Mode.ENFORCE, ingress=(_entry(kind),))
        with enforced(HostPolicy("server", 1, "", (host, owned), (REMOTES,)), place) as wire:
            join_cgroup(place)
            return answered(wire, kind)

    assert space.run(inside) == b"answer"


def _entry(kind: socket.SocketKind) -> Entry:
    return Entry("ask", "remote", (PortRange("tcp" if kind is socket.SOCK_STREAM else "udp", LISTEN, LISTEN),), True)


@pytest.mark.parametrize("host_mode", [Mode.OBSERVE, Mode.ENFORCE])
@pytest.mark.parametrize("speaks", ["owner", "remote"])
@pytest.mark.parametrize("owner", [ProcessKind.USER, ProcessKind.GROUP])
def test_a_session_of_an_owner_ends_with_its_permission_whatever_the_host_may(
    space: Space, owner: ProcessKind, speaks: str, host_mode: Mode
) -> None:
    """Also when only the other side sends: what comes in is the owner's too."""

    def wanted(*egress: Entry) -> HostPolicy:
        may = (Entry("host", "remote", (PortRange("tcp", REMOTE[1], REMOTE[1]),), True),)
        host = LocalWorkload("host", None, host_mode, egress=may)
        owned = LocalWorkload("owned", Process(owner, str(GROUP)), Mode.ENFORCE, egress=egress)
        return HostPolicy("server", 1, "", (host, owned), (REMOTES,))

    def inside() -> tuple[bool, bool]:
        permit = Entry("owned", "remote", (PortRange("tcp", REMOTE[1], REMOTE[1]),), True)
        (CGROUPS / "system.slice/x.service").mkdir(parents=True)
        with Wire() as wire:
            with wire.client.entered():
                listener = socket.create_server(REMOTE)
            with wire.server.entered():
                kernel = NetlinkKernel()
                enforcer = Enforcer(kernel, lambda _: {}, 0)
                join_cgroup("system.slice/x.service")
                enforcer.cgroups_changed(sandbox_facts(SERVER).cgroups, {})
                enforcer.put(wanted(permit))
                os.setegid(GROUP)
                os.seteuid(GROUP)
                here = socket.socket()
                os.seteuid(0)
                os.setegid(0)
                here.settimeout(2)
                here.connect(REMOTE)
                there, _ = listener.accept()
                there.settimeout(2)
                sends, hears = (here, there) if speaks == "owner" else (there, here)
                sends.sendall(b"before")
                before = hears.recv(100) == b"before"
                enforcer.put(wanted())
                kernel.close()
            try:
                sends.sendall(b"after")
                return before, hears.recv(100) == b"after"
            except OSError:
                return before, False

    assert space.run(inside) == (True, False)
