"""A fleet in the lab: a controller that runs as an ordinary user, an agent on each managed host, an administrator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from lab.accounts import uid
from lab.administrator import HostAdministrator
from lab.host import PROGRAM, SOURCE, VENV, LabHost
from lab.instance import LabError
from lab.netns import Lab
from lab.topology import HostSpec, Topology

HEARTBEAT = 4
"""Seconds: who is silent is missed three of them later."""
AGENT_STATE = "/var/lib/segctl-agent"
CONTROLLER_STATE = "/var/lib/segctl-controller"
AGENT_UNIT = "segctl-agent.service"
CONTROLLER_UNIT = "segctl-controller.service"
AGENT_CAPABILITIES = ("net_admin", "sys_ptrace", "dac_read_search")
"""The same as in systemd/segctl-agent.service: the lab proves that they are enough."""
BIN = Path(sys.prefix) / "bin"
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client saw: `open` when it was answered, and the words of the server or of its own system."""

    open: bool
    text: str


def as_service(program: str, user: str, capabilities: Sequence[str] = ()) -> list[str]:
    """The command line of one of our daemons as systemd would run it: as `user`, with these capabilities and no way
    to others (capabilities(7)), from a path that an ordinary user can read."""
    kept = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    privileges = [f"--bounding-set={kept}", f"--inh-caps={kept}", f"--ambient-caps={kept}", "--no-new-privs"]
    account = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    path = ":".join(f"{SOURCE}/{part}" for part in ("agent", "controller", "common"))
    python = ["env", f"PYTHONPATH={path}", "PYTHONDONTWRITEBYTECODE=1", f"{VENV}/bin/python", f"{VENV}/bin/{program}"]
    return ["setpriv", *account, *privileges, "--", *python]


AGENT = as_service("segctl-agent", "segctl-agent", AGENT_CAPABILITIES)
CONTROLLER = as_service("segctl-controller", "segctl")


class Fleet(HostAdministrator):
    """Entering raises the lab, the controller and the agents, and enrols every managed host; nothing is pushed yet."""

    segctl_path = str(BIN / "segctl")

    def __init__(self, lab: Lab | None = None) -> None:
        self.lab = lab or Lab()

    def __enter__(self) -> Self:
        self.lab.__enter__()
        try:
            self.start_controller_first_time()
            parallel(self.enrol, [host.name for host in self.lab.topology.managed])
            parallel(self.start_agent, [host.name for host in self.lab.topology.managed])
        except BaseException:
            self.lab.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lab.close()

    @property
    def control(self) -> LabHost:
        return self.lab.hosts[self.lab.topology.controller]

    @property
    def topology(self) -> Topology:
        return self.lab.topology

    @property
    def control_host(self) -> LabHost:
        return self.control

    @property
    def admin_directory(self) -> Path:
        return self.lab.instance.directory / "admin"

    @property
    def here(self) -> Path:
        return self.lab.instance.directory

    @property
    def managed(self) -> tuple[HostSpec, ...]:
        return self.lab.topology.managed

    def start_controller_first_time(self) -> None:
        spec = self.lab.spec(self.control.name)
        own_directory(self.control.state / "lib" / "segctl-controller", "segctl")
        own_directory(self.admin_directory, "segctl")
        names = [option for name in (spec.name, str(spec.v4), str(spec.v6)) for option in ("--name", name)]
        command = [*CONTROLLER, "init", "--state", CONTROLLER_STATE, "--listen", "::", *names]
        done = self.control.run([*command, "--admin", "alice", "--admin-out", str(self.admin_directory)])
        if done.returncode != 0:
            raise LabError(f"segctl-controller init: {done.stderr or done.stdout}")
        self._shorten_heartbeat()
        self.start_controller()

    def _shorten_heartbeat(self) -> None:
        config = self.control.state / "lib" / "segctl-controller" / "controller.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "heartbeat_seconds": HEARTBEAT}))

    def start_controller(self) -> None:
        self.lab.units[self.control.name].start(CONTROLLER_UNIT, [*CONTROLLER, "run", "--state", CONTROLLER_STATE])

    def stop_controller(self) -> None:
        self.lab.units[self.control.name].stop(CONTROLLER_UNIT)

    def kill_controller(self) -> None:
        self.lab.units[self.control.name].kill(CONTROLLER_UNIT)

    def enrol(self, host: str, token: str = "") -> None:
        """Enrol a host of the topology, with a fresh token unless one is given. Raises LabError when it is refused."""
        own_directory(self.lab.hosts[host].state / "lib" / "segctl-agent", "segctl-agent")
        done = self.enrol_with(host, token or self.token(host))
        if done.returncode != 0:
            raise LabError(f"segctl-agent enrol on {host}: {done.stderr or done.stdout}")

    def enrol_with(self, host: str, token: str) -> subprocess.CompletedProcess[str]:
        command = [*AGENT, "enrol", "--token-file", "-", "--state", AGENT_STATE]
        return self.lab.hosts[host].run(command, stdin=f"{token}\n")

    def start_agent(self, host: str, *options: str) -> None:
        self.lab.units[host].start(AGENT_UNIT, [*AGENT, "run", "--state", AGENT_STATE, *options])

    def stop_agent(self, host: str) -> None:
        self.lab.units[host].stop(AGENT_UNIT)

    def kill_agent(self, host: str) -> None:
        self.lab.units[host].kill(AGENT_UNIT)

    def revive(self) -> None:
        """Start every daemon that does not run, after a test that failed half-way."""
        if not self.lab.units[self.control.name].running(CONTROLLER_UNIT):
            self.start_controller()
        for host in self.managed:
            if not self.lab.units[host.name].running(AGENT_UNIT):
                self.start_agent(host.name)

    def segctl_started(self, *arguments: str, output: int) -> subprocess.Popen[str]:
        """The same, with its output to a file descriptor, and without waiting for its end."""
        environment = {"SEGCTL_CONFIG": str(self.admin_directory)}
        command = [self.segctl_path, *arguments]
        return self.control.popen(command, output=output, environment=environment, here=self.here)

    def call(
        self,
        source: str,
        destination: str,
        port: int,
        unit: str = "",
        user: str = "root",
        family: str = "4",
        say: str = "",
        bind: str = "",
        seconds: float = 2.5,
    ) -> Answer:
        """One real connection from a new process in the cgroup of `unit` on `source`."""
        options = ["--family", family, "--timeout", str(seconds)]
        options += [*(("--say", say) if say else ()), *(("--bind", bind) if bind else ())]
        command = [*PROGRAM, "call", destination, str(port), *options]
        done = self.lab.hosts[source].run(command, unit=unit, user=user, seconds=30)
        if done.returncode not in (0, 1) or done.stderr:
            raise LabError(f"the client on {source} failed: {done.stderr}")
        return Answer(done.returncode == 0, done.stdout.strip())

    def nft(self, host: str, *arguments: str) -> str:
        """nft(8) on a host, as root in a login session. Raises LabError when it fails."""
        return self.lab.hosts[host].check(["nft", *arguments])

    def logs(self, lines: int = 40) -> str:
        """The last lines of every daemon's log, for a report of a failure."""
        parts = [f"--- {self.control.name}\n{self.lab.units[self.control.name].tail(CONTROLLER_UNIT, lines)}"]
        parts += [f"--- {host.name}\n{self.lab.units[host.name].tail(AGENT_UNIT, lines)}" for host in self.managed]
        return "\n".join(parts)


def own_directory(path: Path, user: str) -> None:
    """A private directory of `user`, as systemd's StateDirectory= makes it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chown(path, uid(user), uid(user))


def parallel(function: Callable[[A], B], items: Sequence[A]) -> list[B]:
    """`function` of every item, at once: most of what the lab does is waiting."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(function, items))
