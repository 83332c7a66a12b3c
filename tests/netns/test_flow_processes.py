"""Whose flows are, with real processes in cgroups as systemd makes them."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from pathlib import Path

import pytest
from segctl.model.policy import Mode
from segctl_agent.conntrack.reader import ConntrackReader
from segctl_agent.facts.cgroups import CgroupWatcher
from segctl_agent.flows.attribution import Memory
from segctl_agent.flows.decisions import DecisionId, RecentDecisions
from segctl_agent.flows.processes import FEW, SocketProcesses
from segctl_agent.flows.watcher import FlowWatcher
from segctl_agent.flows.witness import Witness

from tests.netns.spaces import CGROUPS, run
from tests.netns.twohosts import HERE, THERE, THERE6, TwoHosts, server
from tests.unit.segctl_agent.flows.rows import Layout, policy

pytestmark = pytest.mark.kernel

RULES = """
table inet marked {
  chain out {
    type filter hook output priority 0;
    oif lo accept
    tcp dport { 5432, 443 } ct mark set 0x00200000
    udp dport 514 ct mark set 0x00200000
  }
  chain in {
    type filter hook input priority 0;
    iif lo accept
    tcp dport 8080 ct mark set 0x00000400
    udp dport 5353 ct mark set 0x00000400
    icmp type echo-request ct mark set 0x00000400
  }
}
"""
LIVE: dict[DecisionId, str] = {("out", 2): "host", ("in", 4): "host"}
POLICY = policy(host=Mode.OBSERVE)
CRON, WEB, BACKUP = (f"system.slice/{name}.service" for name in ("cron", "web", "backup"))
SESSION = "user.slice/user-1000.slice/session-3.scope"
ENTER = "import os, socket, sys, time; open(f'{sys.argv[1]}/cgroup.procs', 'w').write(str(os.getpid()))\n"
HOLD = "print('up', flush=True); sys.stdin.read()\n"
CONNECTED = "held = [socket.create_connection((a, int(p))) for a, p in zip(sys.argv[2::2], sys.argv[3::2])]\n" + HOLD
SHORT = (
    "sys.stdin.readline(); one = socket.create_connection((sys.argv[2], int(sys.argv[3])))\n"
    "time.sleep(float(sys.argv[4])); one.close(); print('done')\n"
)
SENDER = "s = socket.socket(type=socket.SOCK_DGRAM); s.sendto(b'x', (sys.argv[2], int(sys.argv[3])))\n" + HOLD
SERVER = (
    "t = socket.socket(); t.bind(('0.0.0.0', 8080)); t.listen()\n"
    "u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); u.bind(('::', 5353))\n" + HOLD
)


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    made = TwoHosts()
    try:
        yield made
    finally:
        made.close()


class Stage:
    """The part of an agent that watches flows, and processes that end with it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        for path in (CRON, WEB, BACKUP, SESSION):
            (CGROUPS / path).mkdir(parents=True)
        paths = {number: path for path, number in CgroupWatcher(CGROUPS).scan().items()}
        self.memory, decisions, self.problems = Memory(), RecentDecisions(), list[str]()
        decisions.learn(LIVE)
        processes = SocketProcesses(paths.get, on_problem=self.problems.append, root=CGROUPS)
        self.witness = Witness(Layout(), decisions.workload, processes, self.memory)
        self.watcher = FlowWatcher(
            ConntrackReader(),
            Layout(),
            decisions,
            lambda: POLICY,
            lambda: LIVE,
            lambda _: None,
            processes_of=processes,
            memory=self.memory,
        )

    def start(self, cgroup: str, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", ENTER + program, str(CGROUPS / cgroup), *arguments]
        made = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._stack.callback(made.wait)
        self._stack.callback(made.kill)
        return made

    def up(self, cgroup: str, program: str, *arguments: str) -> None:
        started = self.start(cgroup, program, *arguments)
        assert started.stdout is not None
        assert started.stdout.readline() == b"up\n"

    def told(self) -> dict[tuple[str, str, int, str], int]:
        """(direction, remote, port, process) -> flows of one look."""
        window = self.watcher.look()
        assert window is not None
        assert (window.lost, self.problems) == (0, [])
        rows = window.rows
        return {(r.key.direction, str(ip_address(r.key.remote)), r.key.port, r.key.process): r.flows for r in rows}


def test_flows_bear_the_unit_or_the_executable_of_their_socket(hosts: TwoHosts) -> None:
    def body() -> None:
        run("nft", "-f", "-", stdin=RULES)
        with ExitStack() as stack:
            stage = Stage(stack)
            assert stage.told() == {}
            with hosts.over_there():
                servers = [server(THERE, 5432), server(THERE6, 5432), server(THERE, 443)]
            stage.up(WEB, SERVER)
            stage.up(CRON, CONNECTED, THERE, "5432", THERE6, "5432")
            stage.up(SESSION, CONNECTED, THERE, "5432")
            stage.up(BACKUP, SENDER, THERE, "514")
            with hosts.over_there():
                stage.up(CRON, CONNECTED, HERE, "8080")  # of another host: its cgroup says nothing here
                stage.up(CRON, SENDER, HERE, "5353")
                echo = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
                echo.sendto(b"\x08\x00\xf7\xfd\x00\x01\x00\x01", (HERE, 0))
            executable = f"exe:{Path(sys.executable).resolve()}"
            assert stage.told() == {
                ("out", THERE, 5432, "unit:cron.service"): 1,
                ("out", THERE6, 5432, "unit:cron.service"): 1,
                ("out", THERE, 5432, executable): 1,
                ("out", THERE, 514, "unit:backup.service"): 1,
                ("in", THERE, 8080, "unit:web.service"): 1,
                ("in", THERE, 5353, "unit:web.service"): 1,
                ("in", THERE, 8, ""): 1,
            }
            # More than are asked for one by one; of the one that is over, its like is remembered.
            stage.up(BACKUP, CONNECTED, *[THERE, "443"] * (FEW + 1))
            short = stage.start(BACKUP, SHORT, THERE, "443", "0")
            assert short.communicate(b"go\n")[0] == b"done\n"
            assert stage.told() == {("out", THERE, 443, "unit:backup.service"): FEW + 2}
            assert len(servers) == 3

    hosts.call(body)


def test_a_flow_that_is_over_before_the_next_dump_is_witnessed(hosts: TwoHosts) -> None:
    async def short_one(stage: Stage) -> None:
        witnessing = asyncio.create_task(stage.witness.run())
        await asyncio.sleep(0)
        short = stage.start(BACKUP, SHORT, THERE, "443", "0.5")  # far longer than it takes, on a busy machine too
        await asyncio.to_thread(short.communicate, b"go\n")
        witnessing.cancel()
        with suppress(asyncio.CancelledError):
            await witnessing

    def body() -> None:
        run("nft", "-f", "-", stdin=RULES)
        with ExitStack() as stack:
            stage = Stage(stack)
            assert stage.told() == {}
            with hosts.over_there():
                listening = server(THERE, 443)
            asyncio.run(short_one(stage))
            assert stage.told() == {("out", THERE, 443, "unit:backup.service"): 1}
            listening.close()

    hosts.call(body)
