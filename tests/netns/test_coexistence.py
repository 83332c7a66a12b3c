"""segctl beside Debian's firewalld, fail2ban and Docker: traffic passes when both let it, and neither harms the other.

The host is a space with the agent and the other program as real processes; its client is another space. Ports: BOTH is
open in segctl's policy and for the other program; OURS only in segctl's, THEIRS only in the other's.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from segctl.model.hostpolicy import Entry, Group, LocalWorkload
from segctl.model.policy import Mode, PortRange, Process, ProcessKind

from tests.netns.kernels import OWNERSHIP, release
from tests.netns.neighbours import Docker, Fail2ban, Firewalld, logs, prepare, spawn, tables
from tests.netns.spaces import Space, join, run
from tests.netns.test_agent_process import POLICY, agent, enrolled, start, table, until

pytestmark = pytest.mark.kernel

HOST, CLIENT = "10.50.0.1", "10.50.0.2"
BOTH, OURS, THEIRS, PUBLISHED = 8000, 8001, 8002, 8080
HELLO_POLICY = replace(
    POLICY,
    workloads=(
        LocalWorkload(
            "hello",
            Process(ProcessKind.UNIT, "hello.service"),
            Mode.ENFORCE,
            ingress=(Entry("client-to-hello", "g1", (PortRange("tcp", BOTH, OURS),), managed=True),),
        ),
        LocalWorkload("host", None, Mode.OBSERVE),
    ),
    groups=(Group("g1", (ip_network(f"{CLIENT}/32"),)),),
)


class Host:
    """What a test does on the host, from inside; `client` is the pid that holds the client's namespaces."""

    def __init__(self, folder: Path, client: int, guard: str) -> None:
        self._folder, self._client, self._guard = folder, client, guard
        self.hello = prepare()
        enrolled(folder, generation=False).write_generation(HELLO_POLICY, (1, 1))
        for port in (BOTH, OURS, THEIRS):
            spawn(str(self.hello), str(port), cgroup="system.slice/hello.service")

    def start_agent(self) -> None:
        self.agent = start(self._folder, "--table-guard", self._guard)

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def opens(self, port: int) -> bool:
        """From the client. What is dropped takes half a second."""
        ask = f"read -r word </dev/tcp/{HOST}/{port} && [ $word = hello ]"
        command = f"nsenter -t {self._client} -n timeout 0.5 bash -c {shlex.quote(ask)}"
        return subprocess.run(["sh", "-c", command], stderr=subprocess.DEVNULL, check=False).returncode == 0

    def verdicts(self, *ports: int) -> dict[int, bool]:
        return {port: self.opens(port) for port in ports}


@pytest.fixture
def spaces() -> Iterator[tuple[Space, Space]]:
    host, client = Space("host"), Space("client")
    try:
        join(host, client, "eth0", "eth0")
        host.sh(f"ip addr add {HOST}/24 dev eth0")
        client.sh(f"ip addr add {CLIENT}/24 dev eth0")
        yield host, client
    finally:
        client.close()
        host.close()


ORDERS = pytest.mark.parametrize(("first", "guard"), [("they", "auto"), ("we", "watch")])


def in_order(host: Host, neighbour: Firewalld | Fail2ban | Docker, first: str) -> str:
    """Starts both; what the other's tables hold."""
    if first == "we":
        host.start_agent()
    neighbour.start()
    until(neighbour.up, 30)
    if first == "they":
        before = tables(neighbour.tables)
        host.start_agent()
        assert tables(neighbour.tables) == before
    return tables(neighbour.tables)


def led_by_nat(port: int) -> bool:
    """The client reached the container through Docker's NAT, and not through its proxy."""
    found = re.search(rf"dport {port} counter packets (\d+)", run("nft", "list", "chain", "ip", "nat", "DOCKER"))
    return found is not None and int(found[1]) > 0


def finish(host: Host) -> None:
    host.agent.send_signal(signal.SIGTERM)
    assert host.agent.wait(10) == 0


@ORDERS
def test_firewalld(tmp_path: Path, spaces: tuple[Space, Space], first: str, guard: str) -> None:
    def body() -> None:
        with logs():
            host = Host(tmp_path / "state", spaces[1].pid, guard)
            firewalld = Firewalld((BOTH, THEIRS))
            theirs = in_order(host, firewalld, first)
            ours = table()
            expected = {BOTH: True, OURS: False, THEIRS: False}
            assert host.verdicts(*expected) == expected
            firewalld.reload()
            assert host.verdicts(*expected) == expected
            assert tables(firewalld.tables) == theirs
            run("firewall-cmd", f"--add-port={OURS}/tcp")
            assert host.opens(OURS)
            assert table() == ours
            assert "tamper" not in host.log
            firewalld.stop()  # removes its own table
            assert host.verdicts(BOTH, THEIRS) == {BOTH: True, THEIRS: False}
            finish(host)

    spaces[0].run(body)


@ORDERS
def test_fail2ban(tmp_path: Path, spaces: tuple[Space, Space], first: str, guard: str) -> None:
    def body() -> None:
        with logs():
            host = Host(tmp_path / "state", spaces[1].pid, guard)
            fail2ban = Fail2ban(BOTH, "192.0.2.66")
            in_order(host, fail2ban, first)
            ours = table()
            assert host.verdicts(BOTH, THEIRS) == {BOTH: True, THEIRS: False}
            fail2ban.ban(CLIENT)
            assert not host.opens(BOTH)
            theirs = tables(fail2ban.tables)
            assert CLIENT in theirs
            assert table() == ours
            fail2ban.unban(CLIENT)
            assert host.opens(BOTH)
            fail2ban.reload()
            fail2ban.ban(CLIENT)
            assert host.verdicts(BOTH, THEIRS) == {BOTH: False, THEIRS: False}
            assert table() == ours
            assert "tamper" not in host.log
            finish(host)

    spaces[0].run(body)


@ORDERS
def test_docker(tmp_path: Path, spaces: tuple[Space, Space], first: str, guard: str) -> None:
    def body() -> None:
        with logs():
            host = Host(tmp_path / "state", spaces[1].pid, guard)
            docker = Docker(PUBLISHED)
            theirs = in_order(host, docker, first)
            ours = table()
            expected = {BOTH: True, THEIRS: False, PUBLISHED: True}
            assert host.verdicts(*expected) == expected
            assert led_by_nat(PUBLISHED)
            docker.reload()
            until(docker.up, 30)
            assert host.verdicts(*expected) == expected
            again = tables(docker.tables)  # the same rules, its chains in another order
            assert sorted(again.splitlines()) == sorted(theirs.splitlines())
            assert table() == ours
            assert "tamper" not in host.log
            finish(host)

    spaces[0].run(body)


@ORDERS
def test_the_service_nftables_is_restarted(tmp_path: Path, spaces: tuple[Space, Space], first: str, guard: str) -> None:
    """`systemctl restart nftables` begins with `flush ruleset`: every table that nobody owns is gone for a moment."""

    def body() -> None:
        with logs():
            host = Host(tmp_path / "state", spaces[1].pid, guard)
            host.start_agent()
            ours = table()
            assert ours is not None
            configuration = "flush ruleset\ntable inet filter { chain input { type filter hook input priority 0; }; }\n"
            run("nft", "-f", "-", stdin=configuration)
            until(lambda: (held := table()) is not None and held.chains.keys() == ours.chains.keys())
            assert run("nft", "list", "tables").count("table") == 2
            assert host.verdicts(BOTH, THEIRS) == {BOTH: True, THEIRS: False}
            if guard == "auto" and release() >= OWNERSHIP:
                assert (table(), "tamper" in host.log) == (ours, False)
            else:
                until(lambda: host.log.count("tamper: nft (pid") == 1)
            finish(host)

    spaces[0].run(body)


def test_a_rule_elsewhere_that_spoils_ours_is_told_with_the_culprit_and_means_what_we_say(
    tmp_path: Path, spaces: tuple[Space, Space]
) -> None:
    rules = (
        "add table ip raw; add chain ip raw pre { type filter hook prerouting priority raw; }; "
        f"add rule ip raw pre tcp dport {BOTH} notrack; "
        "add chain ip raw out { type filter hook output priority raw; }; "
        f"add rule ip raw out tcp sport {BOTH} notrack"
    )

    def body() -> None:
        with logs():
            host = Host(tmp_path / "state", spaces[1].pid, "auto")
            host.start_agent()
            run("nft", rules)
            assert host.verdicts(BOTH, OURS) == {BOTH: False, OURS: True}  # its answers are refused
            until(lambda: host.log.count(" made this: table ip raw, chain ") == 2, 20)
            assert "kernel: nft (pid " in host.log
            assert "takes packets out of connection tracking" in host.log
            until(lambda: "table ip raw, chain pre" in (tmp_path / "state" / "status.json").read_text(), 10)
            assert "note: table ip raw, chain pre" in agent("status", "--state", str(tmp_path / "state")).stdout
            finish(host)

    spaces[0].run(body)
