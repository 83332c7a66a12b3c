"""The fleet that is hurt: state folders on small file systems, daemons with a clock of their own, and ways to watch
and to kill them from outside."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.accounts import uid
from lab.fleet import AGENT, AGENT_STATE, AGENT_UNIT, CONTROLLER, CONTROLLER_STATE, CONTROLLER_UNIT, Fleet, parallel
from lab.host import PYTHON, SOURCE, VENV, LabHost
from lab.instance import LabError
from lab.netns import Lab
from lab.topology import load_topology

HERE = Path(__file__).parent
STEPPER = f"{SOURCE}/tests/chaos/stepper.py"
AGENT_DISK, CONTROLLER_DISK = "512k", "24m"
SPARE = "spare1"
HEARTBEAT_SECONDS = 2
BALLAST = "ballast"


@dataclass(frozen=True, slots=True)
class Step:
    """Just before the `at`th step whose description matches the regular expression `words` (stepper.py)."""

    at: int = 1
    words: str = ""

    def arguments(self) -> tuple[str, str]:
        return str(self.at), self.words

    def __str__(self) -> str:
        return f"{self.at} {self.words}".strip()


@dataclass(frozen=True, slots=True)
class Killed:
    """What a stepper saw. `killed` is False when the process got through with fewer steps than it was to take."""

    killed: bool
    steps: tuple[str, ...]

    def __str__(self) -> str:
        last = self.steps[-1] if self.steps else "no step"
        return f"killed before step {len(self.steps)}, {last}" if self.killed else f"lived through {len(self.steps)}"

    @classmethod
    def read(cls, text: str) -> Killed:
        told = json.loads(text)
        return cls(told["killed"], tuple(told["steps"]))


class Stepper:
    """Watches one process until `ended` is asked for."""

    def __init__(self, step: Step, pid: int) -> None:
        self._process = subprocess.Popen(
            [PYTHON, "-I", "-S", str(HERE / "stepper.py"), "attach", *step.arguments(), str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    @property
    def has_ended(self) -> bool:
        """The process was killed, or has ended by itself."""
        return self._process.poll() is not None

    def ended(self) -> Killed:
        return Killed.read(self._process.communicate(timeout=20)[0])


class Looker:
    """Asks one host's kernel what it holds (look.py)."""

    def __init__(self, host: LabHost) -> None:
        path = ":".join((SOURCE, *(f"{SOURCE}/{part}" for part in ("agent", "controller", "common"))))
        self._process = host.popen(
            [f"{VENV}/bin/python", "-m", "tests.chaos.look", AGENT_STATE],
            unit="/init.scope",
            stdin=subprocess.PIPE,
            environment={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        self._line("ready")

    def _line(self, wanted: str) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert wanted in line, f"look.py: {line}{self._process.communicate(timeout=5)[0]}"
        return line

    def differences(self, slots: Sequence[tuple[str, Path, Path | None]]) -> dict[str, list[str]]:
        """For each generation by name, what the kernel holds that is not of it; nothing: it holds that one, whole. With
        a second file, what is between the two (segctl.policy.widen)."""
        assert self._process.stdin is not None
        asked = {name: [str(path) for path in paths if path is not None] for name, *paths in slots}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return dict(json.loads(self._line("{")))


class ChaosFleet(Fleet):
    """Three managed hosts, one that enrols and never runs an agent, and a client."""

    def __init__(self, topology: str = "topology.json") -> None:
        super().__init__(Lab(load_topology(HERE / topology)))
        self._mounted: set[str] = set()
        self._clocks: dict[str, Path] = {}
        self.lookers: dict[str, Looker] = {}

    # The state folders: small file systems of their own.

    def state_of(self, host: str) -> str:
        return CONTROLLER_STATE if host == self.control.name else AGENT_STATE

    def mount_state(self, host: str) -> None:
        if host in self._mounted:
            return
        self._mounted.add(host)
        controller = self.state_of(host) == CONTROLLER_STATE
        owner, size = ("segctl", CONTROLLER_DISK) if controller else ("segctl-agent", AGENT_DISK)
        options = f"size={size},mode=700,uid={uid(owner)},gid={uid(owner)}"
        state = self.state_of(host)
        self.root(host, "mkdir", "-p", state)
        self.root(host, "mount", "-t", "tmpfs", "-o", options, "tmpfs", state)

    def root(self, host: str, *command: str) -> str:
        """A command as root on a host, outside of what is enforced there. Raises LabError when it fails."""
        return self.lab.hosts[host].check(command, unit="/init.scope")

    def path(self, host: str, name: str) -> Path:
        """A file of the host's state folder, as this process can open it."""
        return Path(f"/proc/{self.lab.hosts[host].place.pid}/root{self.state_of(host)}/{name}")

    def fill(self, host: str) -> None:
        """Not a byte more fits its state folder."""
        with self.path(host, BALLAST).open("wb", buffering=0) as file:
            for size in (1 << 16, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)):
                        pass

    def empty(self, host: str) -> None:
        self.path(host, BALLAST).unlink(missing_ok=True)

    def start_controller_first_time(self) -> None:
        self.mount_state(self.control.name)
        super().start_controller_first_time()

    def enrol_with(self, host: str, token: str) -> subprocess.CompletedProcess[str]:
        self.mount_state(host)
        return super().enrol_with(host, token)

    def enrol_until(self, host: str, token: str, step: Step) -> tuple[subprocess.CompletedProcess[str], Killed]:
        """Enrol, over whatever there is, and be killed at a step."""
        self.mount_state(host)
        return self._agent_until(host, step, "enrol", "--token-file", "-", "--replace", stdin=f"{token}\n")

    def renew_until(self, host: str, step: Step) -> tuple[subprocess.CompletedProcess[str], Killed]:
        """Renew the host's certificate, beside its agent, and be killed at a step."""
        return self._agent_until(host, step, "renew")

    def _agent_until(
        self, host: str, step: Step, *arguments: str, stdin: str = ""
    ) -> tuple[subprocess.CompletedProcess[str], Killed]:
        told = self.lab.instance.directory / "stepper.json"
        command = [PYTHON, "-I", "-S", STEPPER, "start", *step.arguments(), str(told), *AGENT, *arguments]
        done = self.lab.hosts[host].run([*command, "--state", AGENT_STATE], stdin=stdin, unit="/init.scope")
        return done, Killed.read(told.read_text())

    def agent_command(self, host: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`segctl-agent ...` on a host."""
        return self.lab.hosts[host].run([*AGENT, *arguments, "--state", AGENT_STATE], unit="/init.scope")

    def controller_command(self, *arguments: str) -> str:
        """`segctl-controller ...`, as its own user. Raises LabError when it fails."""
        return self.root(self.control.name, *CONTROLLER, *arguments, "--state", CONTROLLER_STATE)

    # The daemons.

    def start_agent(self, host: str, *options: str) -> None:
        command = self._with_clock(host, [*AGENT, "run", "--state", AGENT_STATE, *options])
        self.lab.units[host].start(AGENT_UNIT, command)

    def start_controller(self) -> None:
        self._shorten_heartbeat()
        command = self._with_clock(self.control.name, [*CONTROLLER, "run", "--state", CONTROLLER_STATE])
        self.lab.units[self.control.name].start(CONTROLLER_UNIT, command)

    def _shorten_heartbeat(self) -> None:
        """Who is silent is missed three heartbeats later: tests wait for that."""
        path = self.path(self.control.name, "controller.json")
        config = json.loads(path.read_text())
        if config["heartbeat_seconds"] != HEARTBEAT_SECONDS:
            path.write_text(json.dumps({**config, "heartbeat_seconds": HEARTBEAT_SECONDS}))

    def agent_pid(self, host: str) -> int:
        return self.lab.units[host].pid(AGENT_UNIT)

    def controller_pid(self) -> int:
        return self.lab.units[self.control.name].pid(CONTROLLER_UNIT)

    def start_agent_until(self, host: str, step: Step) -> Killed:
        """Start an agent that is killed at a step. One that does not take it is killed as soon as it is ready."""
        told = self.lab.instance.directory / "stepper.json"
        told.unlink(missing_ok=True)
        stepper = [PYTHON, "-I", "-S", STEPPER, "start", *step.arguments(), str(told)]
        units = self.lab.units[host]
        try:
            units.start(AGENT_UNIT, [*stepper, *AGENT, "run", "--state", AGENT_STATE])
        except LabError:
            killed = Killed.read(told.read_text())  # missing: the agent did not start for another reason
            assert killed.killed, units.tail(AGENT_UNIT)
        else:
            killed = Killed(False, ())
        units.kill(AGENT_UNIT)
        return killed

    # Clocks (clock.c)

    def _with_clock(self, name: str, command: Sequence[str]) -> list[str]:
        clock = self._clocks.get(name)
        if clock is None:
            return list(command)
        start = command.index("env") + 1  # within what setpriv(1) starts
        return [*command[:start], f"LD_PRELOAD={clock.parent}/clock.so", f"CHAOS_CLOCK={clock}", *command[start:]]

    def give_clock(self, host: str) -> None:
        """The daemon of this host, from its next start on, has a clock that `set_clock` moves."""
        library = self.lab.instance.directory / "clock.so"
        if not library.exists():
            subprocess.run(["gcc", "-Wall", "-O1", "-shared", "-fPIC", "-o", library, HERE / "clock.c"], check=True)
        clock = self.lab.instance.directory / f"clock.{host}"
        clock.write_bytes(bytes(8))
        clock.chmod(0o644)
        self._clocks[host] = clock

    def set_clock(self, host: str, seconds: int) -> None:
        """So many seconds ahead of the real time, or behind it, at once."""
        with self._clocks[host].open("r+b", buffering=0) as file:
            file.write(struct.pack("=q", seconds))

    def take_clock(self, host: str) -> None:
        """From the next start of its daemon on."""
        del self._clocks[host]

    @property
    def clocked(self) -> tuple[str, ...]:
        return tuple(self._clocks)

    # What is so.

    def host_states(self) -> dict[str, str]:
        managed = {host.name for host in self.managed}
        return {name: state for name, state in super().host_states().items() if name in managed}

    def start_lookers(self) -> None:
        made = parallel(lambda host: Looker(self.lab.hosts[host.name]), self.managed)
        self.lookers = {host.name: looker for host, looker in zip(self.managed, made, strict=True)}

    def segctl_lines(self, *arguments: str) -> list[dict[str, Any]]:
        """The JSON objects of a command, whatever its exit code."""
        done = self.segctl(*arguments, "--json")
        return [json.loads(line) for line in done.stdout.splitlines()]

    @contextmanager
    def stopped_agent(self, host: str, number: int, undo: int) -> Iterator[None]:
        """A signal to the agent, another one afterwards: SIGSTOP and SIGCONT."""
        pid = self.agent_pid(host)
        os.kill(pid, number)
        try:
            yield
        finally:
            os.kill(pid, undo)
