"""read_listeners on the kernel's sockets."""

from __future__ import annotations

import socket
import subprocess
from ipaddress import ip_address

import pytest
from segctl_agent.facts.cgroups import CgroupWatcher
from segctl_agent.facts.listeners import LOOKUP_SECONDS, read_listeners
from segctl_agent.facts.sockdiag import SockDiag
from segctl_agent.facts.values import ListenerFact

from tests.netns.spaces import CGROUPS, in_namespaces

pytestmark = pytest.mark.kernel

SERVER = """
import os, socket, sys
open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))
os.setuid(int(sys.argv[2]))
t = socket.socket(); t.bind(('127.0.0.1', 8080)); t.listen()
s = socket.socket(socket.AF_INET6); s.bind(('::', 8443)); s.listen()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('0.0.0.0', 5353))
c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); c.connect(('127.0.0.1', 9))
print('up', flush=True); sys.stdin.read()
"""


def test_listeners_are_told_with_user_cgroup_and_process():
    def body() -> list[ListenerFact]:
        unit = CGROUPS / "system.slice" / "web.service"
        unit.mkdir(parents=True)
        server = subprocess.Popen(
            ["/usr/bin/python3", "-c", SERVER, str(unit), "65534"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert server.stdout is not None
        assert server.stdout.readline() == b"up\n"
        paths = {number: path for path, number in CgroupWatcher(CGROUPS).scan().items()}
        facts = read_listeners(paths, CGROUPS)
        with SockDiag() as diag:
            none = diag.find("tcp", ip_address("127.0.0.1"), 81, ip_address("127.0.0.1"), 50000)
            exact = diag.find("tcp", ip_address("127.0.0.1"), 8080, ip_address("127.0.0.1"), 50000)
            mapped = diag.find("tcp", ip_address("127.0.0.1"), 8443, ip_address("127.0.0.1"), 50000)
            udp = diag.find("udp", ip_address("127.0.0.1"), 5353, ip_address("127.0.0.1"), 50000)
        assert none is None
        assert exact is not None
        assert mapped is not None
        assert udp is not None
        assert [exact.inode, udp.inode, mapped.inode] == [facts[0].inode, facts[2].inode, facts[1].inode]
        server.communicate()
        return list(facts)

    facts = in_namespaces(body)
    assert [(f.protocol, str(f.address), f.port) for f in facts] == [
        ("tcp", "127.0.0.1", 8080),
        ("tcp", "::", 8443),
        ("udp", "0.0.0.0", 5353),
    ]
    assert {f.uid for f in facts} == {65534}
    assert {f.cgroup for f in facts} == {"system.slice/web.service"}
    assert all(f.process.startswith("python3") for f in facts)


def test_the_number_is_bounded_and_reuseport_counts_once():
    def body() -> tuple[int, int]:
        held = []
        for _ in range(8):
            shared = socket.socket()
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            shared.bind(("127.0.0.1", 7000))
            shared.listen()
            held.append(shared)
        held += [socket.create_server(("127.0.0.1", port)) for port in range(7001, 7101)]
        return len(read_listeners({}, CGROUPS)), len(read_listeners({}, CGROUPS, limit=10))

    assert in_namespaces(body) == (101, 10)


def test_the_time_for_names_is_bounded():
    """A user with many listeners among many open files must not keep the agent busy."""

    def body() -> tuple[list[str], int]:
        unit = CGROUPS / "user.slice"
        unit.mkdir()
        (unit / "cgroup.procs").write_text("0")
        held = [socket.create_server(("127.0.0.1", port)) for port in range(7000, 7020)]
        ticks = iter(range(1000))
        facts = read_listeners(
            {unit.stat().st_ino: "user.slice"}, CGROUPS, clock=lambda: next(ticks) * LOOKUP_SECONDS / 5
        )
        return [f.process for f in facts if f.process], len(facts) - len(held)

    names, missing = in_namespaces(body)
    assert len(names) == 4
    assert missing == 0


def test_a_dump_left_halfway_does_not_spoil_the_next_question():
    def body() -> None:
        held = [socket.create_server(("127.0.0.1", port)) for port in range(7000, 7800)]
        with SockDiag() as diag:
            listeners = diag.listeners()
            assert next(iter(listeners)).port >= 7000
            found = diag.find("tcp", ip_address("127.0.0.1"), 7005, ip_address("127.0.0.1"), 50000)
            assert found is not None
            assert found.port == 7005
            assert len(list(diag.listeners())) == len(held)

    in_namespaces(body)
