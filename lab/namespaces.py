"""The driver whose hosts are namespaces of this machine: up in seconds, nothing to install."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.driver import Driver
from lab.fleet import AGENT_UNIT, CONTROLLER_UNIT, Fleet
from lab.host import PROGRAM, REPOSITORY
from lab.instance import LabError
from lab.netns import Lab
from lab.topology import Topology


class NamespaceDriver(Driver):
    """A `Fleet`, seen as a driver."""

    name = "netns"
    systemd = False
    program = PROGRAM

    def __init__(self, topology: Topology) -> None:
        super().__init__(topology)
        self.fleet = Fleet(Lab(topology))

    def __enter__(self) -> Self:
        self.fleet.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.fleet.__exit__(kind, value, trace)

    @property
    def policy(self) -> Path:
        return REPOSITORY / "examples" / "shop"

    def run(
        self,
        host: str,
        command: Sequence[str],
        unit: str = "",
        user: str = "root",
        seconds: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        return self.fleet.lab.hosts[host].run(command, unit, user, seconds=seconds)

    def popen(self, host: str, command: Sequence[str], unit: str = "", user: str = "root") -> subprocess.Popen[str]:
        return self.fleet.lab.hosts[host].popen(command, unit, user)

    def stop_unit(self, host: str, unit: str) -> None:
        self.fleet.lab.units[host].stop(unit)

    def start_unit(self, host: str, unit: str) -> None:
        if unit == AGENT_UNIT:
            self.fleet.start_agent(host)
        elif unit == CONTROLLER_UNIT:
            self.fleet.start_controller()
        else:
            self.fleet.lab.units[host].start_all([self.fleet.lab.spec(host).unit(unit)])

    def kill_unit(self, host: str, unit: str) -> None:
        self.fleet.lab.units[host].kill(unit)

    def serve(self, host: str, unit: str, port: int, banner: str) -> None:
        self.fleet.lab.units[host].start(unit, [*PROGRAM, "serve", str(port), "--banner", banner])

    def cgroup_id(self, host: str, unit: str) -> int:
        return self.fleet.lab.units[host].cgroup(unit).stat().st_ino

    def reboot(self, host: str) -> None:
        raise LabError(f"{host} is a namespace and cannot reboot: use a driver with machines")

    def await_boot(self, host: str, seconds: float = 300) -> None:
        raise LabError(f"{host} is a namespace and does not boot: use a driver with machines")

    def partition(self, host: str, cut: bool) -> None:
        self.fleet.lab.partition(host, cut)

    def logs(self, lines: int = 40) -> str:
        return self.fleet.logs(lines)

    def segctl(self, *arguments: str, stdin: str = "", seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        return self.fleet.segctl(*arguments, stdin=stdin, seconds=seconds)
