"""Units of a lab host, as systemd would keep them: a start makes a new cgroup, a stop removes it, and a unit says by
sd_notify(3) that it is ready."""

from __future__ import annotations

import contextlib
import secrets
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab.host import PROGRAM, LabHost
from lab.instance import LabError, remove_cgroup
from lab.topology import Unit, unit_cgroup


class UnitError(LabError):
    """A unit did not start or stop; the message ends with its last log lines."""


def program_argv(unit: Unit) -> list[str]:
    """The command line of a unit of the topology."""
    if unit.kind == "idle":
        return [*PROGRAM, "idle"]
    return [*PROGRAM, "serve", str(unit.port), "--banner", unit.banner, "--backend", unit.backend]


class Units:
    """The units of one host, by name."""

    def __init__(self, host: LabHost) -> None:
        self.host = host
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def cgroup(self, unit: str) -> Path:
        return self.host.cgroup / unit_cgroup(unit)

    def log(self, unit: str) -> Path:
        return self.host.logs / f"{unit.replace('/', '-')}.log"

    def running(self, unit: str) -> bool:
        process = self._processes.get(unit)
        return process is not None and process.poll() is None

    def pid(self, unit: str) -> int:
        """Of the unit's main process. Raises UnitError when it does not run."""
        process = self._processes.get(unit)
        if process is None or process.poll() is not None:
            raise UnitError(f"{self.host.name}: {unit} does not run")
        return process.pid

    def start(self, unit: str, command: Sequence[str], user: str = "root", seconds: float = 30.0) -> None:
        """Start a unit in a new cgroup and wait for READY=1. Raises UnitError when it ends or stays silent."""
        if self.running(unit):
            raise UnitError(f"{self.host.name}: {unit} runs already")
        remove_cgroup(self.cgroup(unit))
        path = self.host.notify / secrets.token_hex(6)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, self.log(unit).open("a") as log:
            ready.bind(str(path))
            path.chmod(0o666)
            ready.settimeout(0.1)
            environment = {"NOTIFY_SOCKET": str(path), "PYTHONUNBUFFERED": "1"}
            process = self.host.popen(command, unit, user, output=log, environment=environment)
            self._processes[unit] = process
            try:
                self._await_ready(unit, process, ready, seconds)
            finally:
                path.unlink(missing_ok=True)

    def _await_ready(self, unit: str, process: subprocess.Popen[str], ready: socket.socket, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in ready.recv(4096):
                    return
            if process.poll() is not None:
                raise UnitError(f"{self.host.name}: {unit} ended with code {process.returncode}:\n{self.tail(unit)}")
        self.kill(unit)
        raise UnitError(f"{self.host.name}: {unit} was not ready after {seconds:g} s:\n{self.tail(unit)}")

    def stop(self, unit: str, seconds: float = 10.0) -> int:
        """SIGTERM to the main process, then the end of its whole cgroup. Returns the exit code. Raises UnitError when
        the unit does not run, or does not end in `seconds` (it is then killed)."""
        process = self._processes.pop(unit, None)
        if process is None:
            raise UnitError(f"{self.host.name}: {unit} does not run")
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise UnitError(
                f"{self.host.name}: {unit} did not end {seconds:g} s after SIGTERM:\n{self.tail(unit)}"
            ) from error
        finally:
            remove_cgroup(self.cgroup(unit))
            process.wait()
        return code

    def kill(self, unit: str) -> None:
        """SIGKILL to every process of the unit, as a crash or the out-of-memory killer would."""
        remove_cgroup(self.cgroup(unit))
        process = self._processes.pop(unit, None)
        if process is not None:
            process.wait()

    def start_all(self, units: Sequence[Unit]) -> None:
        for unit in units:
            self.start(unit.name, program_argv(unit), unit.user)

    def restart(self, unit: Unit) -> tuple[int, int]:
        """Stop and start a unit of the topology. Returns its cgroup's inode before and after."""
        before = self.cgroup(unit.name).stat().st_ino
        self.stop(unit.name)
        self.start(unit.name, program_argv(unit), unit.user)
        return before, self.cgroup(unit.name).stat().st_ino

    def tail(self, unit: str, lines: int = 20) -> str:
        log = self.log(unit)
        return "\n".join(log.read_text().splitlines()[-lines:]) if log.exists() else "(no log)"

    def reap(self) -> None:
        """Wait for processes that were killed with the lab."""
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._processes.clear()
