"""The demo's second fleet, a recording (lab/recorded.py), and its administrator: both on the controller's host of the
first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Self

from lab.administrator import HostAdministrator
from lab.fleet import BIN
from lab.host import REPOSITORY, LabHost
from lab.instance import LabError
from lab.recording import SHOP_TRAFFIC, Recording, read_recording
from lab.topology import Topology

OBSERVED = "modes:\n  - {select: {}, mode: observe}\n"


class SecondFleet(HostAdministrator):
    """Begins when it is made, and is there after `ready`; it ends with the lab at the latest."""

    segctl_path = str(BIN / "segctl")

    def __init__(self, control: LabHost, topology: Topology, directory: Path) -> None:
        self._control, self._topology = control, topology
        self.directory = directory
        self.policy = directory / "policy"
        self.policy.mkdir(parents=True)
        self.recording: Recording = read_recording(SHOP_TRAFFIC)
        (self.policy / "fleet.yaml").write_text(vocabulary(self.recording) + OBSERVED)
        self._log = (directory / "controller.log").open("w+")
        command = [sys.executable, "-m", "lab.recorded", str(directory / "state")]
        # Its standard output tells when it is ready, and nothing else may be written there.
        shell = ["sh", "-c", 'exec "$0" "$@" 2>>controller.log', *command]
        path = {"PYTHONPATH": str(REPOSITORY)}
        self._process = control.popen(shell, stdin=subprocess.PIPE, environment=path, here=directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    @property
    def topology(self) -> Topology:
        return self._topology

    @property
    def control_host(self) -> LabHost:
        return self._control

    @property
    def admin_directory(self) -> Path:
        return self.directory / "state" / "operators" / "root"

    @property
    def here(self) -> Path:
        return self.directory

    def ready(self) -> None:
        """Raises LabError when it ended instead."""
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            raise LabError(f"the recorded fleet does not start:\n{self._log.read()}")

    def second_week(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self.policy}\n")
        self._process.stdin.flush()
        self.ready()

    def segctl_started(self, *arguments: str, output: int) -> subprocess.Popen[str]:
        environment = {"SEGCTL_CONFIG": str(self.admin_directory)}
        return self._control.popen(
            [self.segctl_path, *arguments], output=output, environment=environment, here=self.here
        )

    def accept(self, rule: str) -> None:
        """`segctl review accept RULE policy | git apply`."""
        accepted = self.segctl_checked("review", "accept", rule, "policy")
        done = self._control.run(["git", "apply"], stdin=accepted.stdout, here=self.here)
        if done.returncode != 0:
            raise LabError(f"git apply: {done.stderr}")


def vocabulary(recording: Recording) -> str:
    """The beginning of a policy file: the tags of the hosts."""
    values: dict[str, list[str]] = {}
    for key, value in sorted({tag for host in recording.managed for tag in host.tags}):
        values.setdefault(key, []).append(value)
    return "".join(
        ["version: 1\ntags:\n", *(f"  {key}: [{', '.join(found)}]\n" for key, found in sorted(values.items()))]
    )
