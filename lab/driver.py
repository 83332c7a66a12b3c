"""A fleet on whatever kind of machines, as vagrant/scenarios uses it: namespaces, or virtual machines with systemd."""

from __future__ import annotations

import subprocess
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.administrator import Administrator
from lab.fleet import Answer
from lab.instance import LabError
from lab.topology import Topology


class Driver(Administrator):
    """Entering raises the machines, the controller and the agents, and enrols; nothing is pushed yet. Leaving takes
    down what entering raised."""

    name: str
    systemd: bool
    """Whether a host is a machine of its own, which boots and starts its services itself."""
    patience: float = 2.5
    """Seconds a client waits for an answer on these machines."""
    program: Sequence[str]
    """The command line of lab/programs.py on a host."""

    def __init__(self, topology: Topology) -> None:
        """`topology`: the hosts that are up; they may be fewer than lab/shop.json has."""
        self._topology = topology

    @property
    def topology(self) -> Topology:
        return self._topology

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    # What runs on a host

    @abstractmethod
    def run(
        self,
        host: str,
        command: Sequence[str],
        unit: str = "",
        user: str = "root",
        seconds: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` to its end in the cgroup of `unit` (a name, or a path with a slash), else in a login session of
        `user`. Raises subprocess.TimeoutExpired."""

    @abstractmethod
    def popen(self, host: str, command: Sequence[str], unit: str = "", user: str = "root") -> subprocess.Popen[str]:
        """Start it and return at once; to kill the process returned ends it."""

    @abstractmethod
    def stop_unit(self, host: str, unit: str) -> None: ...

    @abstractmethod
    def start_unit(self, host: str, unit: str) -> None:
        """A unit of the topology, or of segctl; returns when it is ready."""

    @abstractmethod
    def kill_unit(self, host: str, unit: str) -> None:
        """SIGKILL to every process of the unit; with systemd its own manager may start it again."""

    @abstractmethod
    def serve(self, host: str, unit: str, port: int, banner: str) -> None:
        """Start a unit that is in no topology; `stop_unit` ends it."""

    @abstractmethod
    def cgroup_id(self, host: str, unit: str) -> int: ...

    # The machines

    @abstractmethod
    def reboot(self, host: str) -> None:
        """An orderly reboot; returns while the machine goes down. Raises LabError where a host is no machine."""

    @abstractmethod
    def await_boot(self, host: str, seconds: float = 300) -> None:
        """After `reboot`, wait until the host has started everything."""

    @abstractmethod
    def partition(self, host: str, cut: bool) -> None:
        """Take the host off the lab's network, or put it back."""

    @abstractmethod
    def logs(self, lines: int = 40) -> str:
        """The last lines of every daemon's log."""

    # The administrator

    @property
    @abstractmethod
    def policy(self) -> Path:
        """The example policy, as it must be for these machines."""

    @abstractmethod
    def segctl(self, *arguments: str, stdin: str = "", seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """A directory among the arguments is one of this machine's: it is brought there."""

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
    ) -> Answer:
        """One real connection from a new process in the cgroup of `unit` on `source`."""
        options = ["--family", family, "--timeout", str(self.patience)]
        options += [*(("--say", say) if say else ()), *(("--bind", bind) if bind else ())]
        done = self.run(source, [*self.program, "call", destination, str(port), *options], unit=unit, user=user)
        if done.returncode not in (0, 1) or done.stderr:
            raise LabError(f"the client on {source} failed: {done.stderr}")
        return Answer(done.returncode == 0, done.stdout.strip())
