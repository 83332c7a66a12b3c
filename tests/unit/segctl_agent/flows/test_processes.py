"""From sockets to processes; the kernel's own sockets are in tests/netns/test_flow_processes.py."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest
from segctl_agent.facts.sockdiag import TCP_LISTEN, SocketInfo
from segctl_agent.facts.values import ContainerFact
from segctl_agent.flows.attribution import Asked
from segctl_agent.flows.processes import SocketProcesses, named_by, opened_by, served_by

from tests.unit.segctl_agent.flows.rows import packed

HEX = "0af9" * 16


def asked(direction, port: int, remote_port: int = 6000, local: str = "10.0.0.1", protocol: int = 6) -> Asked:
    return Asked(direction, protocol, packed(local), port, packed("10.0.0.9"), remote_port)


def listener(address: str, port: int, cgroup: int, protocol: str = "tcp") -> SocketInfo:
    return SocketInfo(protocol, ip_address(address), port, TCP_LISTEN, 0, cgroup, cgroup)


def connected(port: int, remote_port: int, cgroup: int, protocol: str = "tcp") -> SocketInfo:
    return SocketInfo(protocol, ip_address("10.0.0.1"), port, 1, 0, cgroup, cgroup, remote_port)


def cgroups(found: dict[int, SocketInfo]) -> dict[int, int]:
    return {at: socket.cgroup for at, socket in found.items()}


def test_what_comes_in_is_of_who_listens_there() -> None:
    listeners = [
        listener("0.0.0.0", 443, 1),
        listener("10.0.0.1", 443, 2),
        listener("::", 80, 3),
        listener("0.0.0.0", 22, 4),
        listener("0.0.0.0", 22, 5),
        listener("10.0.0.7", 25, 6),
        listener("0.0.0.0", 53, 7, "udp"),
        listener("0.0.0.0", 99, 8),
    ]
    questions = {
        0: asked("in", 443),
        1: asked("in", 443, local="10.0.0.2"),
        2: asked("in", 80),
        3: asked("in", 22),
        4: asked("in", 25),
        5: asked("in", 53, protocol=17),
        6: asked("in", 53),
        7: asked("in", 443, local="fd00::1"),
    }
    assert cgroups(served_by(questions, listeners)) == {0: 2, 1: 1, 2: 3, 5: 7, 7: 1}


def test_what_goes_out_is_of_the_socket_with_its_ports() -> None:
    sockets = [
        connected(5000, 443, 1),
        connected(5000, 444, 2),
        connected(5001, 443, 3),
        connected(5001, 443, 4),  # to another address
        connected(5353, 0, 5, "udp"),
        connected(5002, 443, 6),
        connected(5002, 443, 6),
    ]
    questions = {
        0: asked("out", 5000, 443),
        1: asked("out", 5000, 444),
        2: asked("out", 5001, 443),
        3: asked("out", 5353, 53, protocol=17),
        4: asked("out", 5353, 53),
        5: asked("out", 5002, 443),
        6: asked("out", 5003, 443),
    }
    assert cgroups(opened_by(questions, sockets)) == {0: 1, 1: 2, 3: 5, 5: 6}


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("system.slice/nginx.service", "unit:nginx.service"),
        ("system.slice/nginx.service/segctl-exe-worker", "unit:nginx.service"),
        ("seg.slice/seg-web.slice/nginx.service", "unit:nginx.service"),
        (f"system.slice/docker-{HEX}.scope", "container:shop"),
        (f"system.slice/docker-{HEX}.scope/inner", "container:shop"),
        (f"system.slice/docker-{HEX[::-1]}.scope", "unit:docker-*.scope"),
        ("user.slice/user-1000.slice/session-3.scope", ""),
        ("user.slice/user-1000.slice/user@1000.service/app.slice/a.service", ""),
        ("", ""),
    ],
)
def test_a_cgroup_names_its_container_or_unit(path: str, told: str) -> None:
    assert named_by(path, {f"system.slice/docker-{HEX}.scope": "container:shop"}) == told


def test_a_container_with_a_network_of_its_own_is_known_by_its_address() -> None:
    shop = ContainerFact(HEX, "shop", f"system.slice/docker-{HEX}.scope", 5, (ip_address("172.17.0.2"),))
    processes = SocketProcesses({}.get, lambda: (shop,))
    questions = [asked("out", 1, local="172.17.0.2"), asked("in", 8, local="172.17.0.2", protocol=1), asked("in", 8)]
    assert processes(questions[:2]) == ["container:shop"] * 2
    assert processes([asked("in", 8, protocol=1)]) == [""]  # no socket of this host takes it


def holding(tmp_path: Path, executables: dict[int, str]) -> tuple[Path, Path]:
    """A root with a session's cgroup and a /proc, where process N holds the socket N."""
    root, proc = tmp_path / "cgroup", tmp_path / "proc"
    (root / "session").mkdir(parents=True)
    (root / "session" / "cgroup.procs").write_text("\n".join(map(str, executables)))
    for pid, path in executables.items():
        (proc / str(pid) / "fd").mkdir(parents=True)
        (proc / str(pid) / "fd" / "3").symlink_to(f"socket:[{pid}]")
        (proc / str(pid) / "exe").symlink_to(path)
    return root, proc


def test_where_no_unit_names_it_the_executable_does_and_else_the_user(tmp_path: Path) -> None:
    root, proc = holding(tmp_path, {11: "/usr/bin/psql", 12: "/usr/bin/x (deleted)", 13: "/tmp/\x1b[2J"})
    paths = {1: "session", 2: "system.slice/nginx.service", 3: "gone"}
    processes = SocketProcesses(paths.get, root=root, proc=proc)
    sockets = {
        n: SocketInfo("tcp", ip_address("10.0.0.1"), n, 1, uid, inode, cgroup)
        for n, (uid, inode, cgroup) in enumerate(
            [
                (0, 11, 1),
                (0, 12, 1),
                (0, 13, 1),
                (4_000_000, 99, 1),
                (0, 0, 1),
                (0, 0, 2),
                (0, 5, 4),
                (0, 5, 0),
                (0, 9, 3),
            ]
        )
    }
    told = processes._named(sockets)
    assert [told.get(n, "") for n in sockets] == [
        "exe:/usr/bin/psql",
        "exe:/usr/bin/x",
        "exe:/tmp/\\x1b[2J",
        "user:4000000",
        "",  # no process holds it any more
        "unit:nginx.service",
        "",  # an unknown cgroup
        "",  # the kernel does not tell it
        "user:root",
    ]
    # The event loop waits for no directory of users.
    assert "user:" not in "".join(processes._named(sockets, lambda _uid: "").values())


def test_looking_for_holders_ends_with_its_time(tmp_path: Path) -> None:
    root, proc = holding(tmp_path, {11: "/usr/bin/a", 12: "/usr/bin/b"})
    late = iter([0.0, 1.0])
    sockets = {n: SocketInfo("tcp", ip_address("10.0.0.1"), n, 1, 0, 11 + n, 1) for n in range(2)}
    hurried = SocketProcesses({1: "session"}.get, root=root, proc=proc, clock=lambda: next(late))
    assert hurried._named(sockets) == {0: "user:root", 1: "user:root"}
    patient = SocketProcesses({1: "session"}.get, root=root, proc=proc)
    assert patient._named(sockets) == {0: "exe:/usr/bin/a", 1: "exe:/usr/bin/b"}
