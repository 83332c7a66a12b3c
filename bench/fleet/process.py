"""What a process costs, from /proc, and a controller in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from segctl.cli.client import Controller as Client
from segctl.cli.config import load_config as load_client
from segctl_controller.clock import Clock
from segctl_controller.config import load_config
from segctl_controller.setup import add_operator, create_controller, open_store
from segctl_controller.store.records import Role

from bench.fleet.limits import raise_file_limit

NAME = "127.0.0.1"
READY_SECONDS = 120.0
BIN = Path(sys.executable).parent


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads so far (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    status = Path("/proc", str(pid), "status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((NAME, 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class ControllerProcess:
    """A real controller (`segctl-controller run`) with its state below `base`."""

    base: Path
    metrics_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def state(self) -> Path:
        return self.base / "controller"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def address(self) -> str:
        return f"{NAME}:{load_config(self.state).port}"

    def start(self, seconds: float = READY_SECONDS) -> float:
        """Returns when it listens; how many seconds that took. Raises RuntimeError with the end of its log."""
        raise_file_limit()  # it inherits ours
        started = time.monotonic()
        with (self.base / "controller.log").open("ab") as log:
            self.process = subprocess.Popen(
                [BIN / "segctl-controller", "run", "--state", self.state, "--metrics", f"{NAME}:{self.metrics_port}"],
                stdout=log,
                stderr=log,
            )
        port = load_config(self.state).port
        while not _listens(port):
            if self.process.poll() is not None or time.monotonic() - started > seconds:
                tail = (self.base / "controller.log").read_text(errors="replace")[-600:]
                raise RuntimeError(f"the controller does not listen: {tail}")
            time.sleep(0.01)
        return time.monotonic() - started

    def kill(self) -> None:
        """SIGKILL: nothing is written on the way out."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def client(self) -> Client:
        return Client(load_client(self.base / "root"))

    def metrics(self) -> str:
        with urlopen(f"http://{NAME}:{self.metrics_port}/metrics", timeout=30) as page:
            return str(page.read().decode())


@contextmanager
def controller_in(base: Path, heartbeat: int = 10) -> Iterator[ControllerProcess]:
    """A new controller that does not run yet, with the administrator `root`."""
    controller = ControllerProcess(base, free_port())
    create_controller(controller.state, NAME, (NAME,), free_port(), free_port(), Clock(), heartbeat)
    store = open_store(controller.state)
    try:
        add_operator(controller.state, store, "root", Role.ADMIN, base / "root", Clock())
    finally:
        store.close()
    try:
        yield controller
    finally:
        controller.stop()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((NAME, port)) == 0
