"""A driver over virtual machines: what QEMU's and Vagrant's have in common once their machines answer to ssh."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.driver import Driver
from lab.fleet import AGENT_UNIT, CONTROLLER_UNIT, parallel
from lab.host import REPOSITORY
from lab.instance import LabError
from lab.topology import Topology, unit_cgroup
from lab.vm.guest import packages
from lab.vm.policy import write_policy
from lab.vm.remote import FOLDER, PROGRAM, RemoteHost
from lab.wait import until

DIST = REPOSITORY / "dist"
"""The packages that `make deb` built."""
GUEST = ("env", f"PYTHONPATH={FOLDER}", "python3", "-m", "lab.vm.guest")
ADMIN = "/root/.config/segctl"


class MachineDriver(Driver):
    """`machines` is filled by whoever raises them."""

    systemd = True
    program = PROGRAM
    slow: float = 1.0
    """How many times longer than a machine with KVM these take."""

    def __init__(self, topology: Topology) -> None:
        super().__init__(topology)
        self.machines: dict[str, RemoteHost] = {}
        self._scratch = tempfile.TemporaryDirectory(prefix="segctl-lab-")

    @property
    @abstractmethod
    def management(self) -> tuple[str, ...]:
        """The networks from where the machines are administered: the policy lets ssh in from there."""

    @property
    def policy(self) -> Path:
        return write_policy(Path(self._scratch.name) / "policy", self.management)

    @property
    def control(self) -> RemoteHost:
        return self.machines[self.topology.controller]

    # Installing, where the machines are bare

    def install(self) -> None:
        """Everything up to enrolled agents, on machines that have nothing yet. Raises LabError."""
        if not list(DIST.glob("segctl-agent_*.deb")):
            raise LabError(f"no packages in {DIST}: build them with `make deb`")
        parallel(self.prepare, [host.name for host in self.topology.hosts])
        for host in self.topology.managed:
            self.enrol(host.name)

    def prepare(self, host: str) -> None:
        machine = self.machines[host]
        wanted = packages(self.topology.host(host), self.topology)
        files = [f"dist/{path.name}" for name in wanted for path in DIST.glob(f"{name}_*.deb")]
        machine.copy(REPOSITORY, FOLDER, "lab", *files)
        machine.check([*GUEST, host], seconds=600)

    def enrol(self, host: str) -> None:
        """With a token made for this host: it goes from one machine's output to the other's input."""
        token, machine = self.token(host), self.machines[host]
        machine.check(["segctl-agent", "enrol", "--token-file", "-"], stdin=f"{token}\n", seconds=120)
        machine.check(["systemctl", "start", "segctl-agent-boot.service", AGENT_UNIT], seconds=180)

    # The driver

    def push(self, policy: Path, *options: str) -> list[dict[str, Any]]:
        """A machine that is slow may be offline for a moment, and takes the generation when it is back."""
        done = self.segctl("push", str(policy), "--yes", "--watch", "0", "--json", *options, seconds=300)
        if done.returncode != 0 and "offline" not in done.stdout:
            raise LabError(f"segctl push: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        self.await_in_sync(60 * self.slow)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def run(
        self,
        host: str,
        command: Sequence[str],
        unit: str = "",
        user: str = "root",
        seconds: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        return self.machines[host].run(command, unit, user, seconds=seconds * self.slow)

    def popen(self, host: str, command: Sequence[str], unit: str = "", user: str = "root") -> subprocess.Popen[str]:
        return self.machines[host].popen(command, unit, user)

    def systemctl(self, host: str, *arguments: str) -> str:
        return self.machines[host].check(["systemctl", *arguments], seconds=60 * self.slow)

    def stop_unit(self, host: str, unit: str) -> None:
        self.systemctl(host, "stop", unit)

    def start_unit(self, host: str, unit: str) -> None:
        self.systemctl(host, "start", unit)

    def kill_unit(self, host: str, unit: str) -> None:
        self.systemctl(host, "kill", "--signal=SIGKILL", unit)

    def serve(self, host: str, unit: str, port: int, banner: str) -> None:
        command = [*PROGRAM, "serve", str(port), "--banner", banner]
        start = ["systemd-run", "--quiet", "--collect", "--property=Type=notify", f"--unit={unit}", "--", *command]
        self.machines[host].check(start, seconds=60 * self.slow)

    def cgroup_id(self, host: str, unit: str) -> int:
        return int(self.machines[host].check(["stat", "--format=%i", f"/sys/fs/cgroup/{unit_cgroup(unit)}"]))

    def reboot(self, host: str) -> None:
        machine = self.machines[host]
        before = self._boot_id(machine)
        # A moment later: else it may end the ssh that asks for it before that has its exit code.
        reboot = ["systemd-run", "--quiet", "--on-active=1", "systemctl", "reboot"]
        machine.check(reboot, seconds=60 * self.slow)
        self._before = {host: before}

    def await_boot(self, host: str, seconds: float = 300) -> None:
        machine = self.machines[host]

        def up() -> bool:
            try:
                rebooted = self._boot_id(machine) != self._before[host]
            except (LabError, subprocess.TimeoutExpired):  # it is going down, or not up yet
                return False
            return rebooted and machine.reachable(20 * self.slow)

        until(f"{host} has rebooted", up, seconds, every=0.5)

    def _boot_id(self, machine: RemoteHost) -> str:
        return machine.check(["cat", "/proc/sys/kernel/random/boot_id"], seconds=30 * self.slow).strip()

    def logs(self, lines: int = 40) -> str:
        units = {self.topology.controller: CONTROLLER_UNIT}
        units |= {host.name: AGENT_UNIT for host in self.topology.managed}

        def tail(name: str) -> str:
            command = ["journalctl", "--no-pager", f"--lines={lines}", f"--unit={units[name]}"]
            try:
                return f"--- {name}\n{self.machines[name].run(command, seconds=60 * self.slow).stdout}"
            except LabError as error:
                return f"--- {error}"

        return "\n".join(parallel(tail, list(units)))

    def segctl(self, *arguments: str, stdin: str = "", seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        there = [self._brought(word) if Path(word).is_dir() else word for word in arguments]
        command = ["env", f"SEGCTL_CONFIG={ADMIN}", "segctl", *there]
        return self.control.run(command, stdin=stdin, seconds=seconds * self.slow)

    def _brought(self, directory: str) -> str:
        """Bring a directory to the controller's host; returns where it is there."""
        target = f"{FOLDER}/policy/{hashlib.sha256(directory.encode()).hexdigest()[:8]}"
        self.control.check(["rm", "-rf", target])
        self.control.copy(Path(directory), target, ".")
        return target

    def close(self) -> None:
        self._scratch.cleanup()
