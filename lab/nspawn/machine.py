"""One systemd machine of the lab: its power, its files, and commands that run in it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lab.host import HERE, PYTHON
from lab.instance import LabError, remove_cgroup
from lab.topology import HostSpec, unit_cgroup
from lab.wait import until

EXEC_CGROUP = "lab-exec.scope"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_JOIN = 'mkdir -p "$1" && echo $$ >"$1/cgroup.procs" && shift && exec "$@"'
_SAVE = 'mkdir -p "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1" && chown "$3" "$1"'


@dataclass(frozen=True, slots=True)
class MachinePlace:
    """What is needed to enter a machine, also by a process that did not raise the lab."""

    name: str
    pid_file: Path
    cgroup: Path

    def leader(self) -> int | None:
        """The process id of the machine's systemd as this machine sees it; None while it is off."""
        try:
            nspawn = int(self.pid_file.read_text())
            children = Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split()
        except (OSError, ValueError):
            return None
        return int(children[0]) if children else None

    def argv(
        self,
        command: Sequence[str],
        unit: str = "",
        user: str = "root",
        environment: Mapping[str, str] | None = None,
        here: Path | None = None,
    ) -> list[str]:
        """The command line that runs `command` in the machine: in the cgroup of `unit` (a name or a path with a slash),
        else in one of the lab's own. Raises LabError while the machine is off."""
        leader = self.leader()
        if leader is None:
            raise LabError(f"the machine {self.name} is off")
        cgroup = self.cgroup / "payload" / (unit_cgroup(unit) if unit else EXEC_CGROUP)
        home = "/root" if user == "root" else f"/home/{user}"
        variables = {"PATH": PATH, "HOME": home, "USER": user, "LANG": "C.UTF-8", "TERM": "dumb", **(environment or {})}
        account = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        enter = [
            "nsenter",
            f"--target={leader}",
            "-m",
            "-u",
            "-i",
            "-n",
            "-p",
            "-C",
            "-r",
            f"--wdns={here or '/'}",
            "--",
        ]
        return [
            *("sh", "-c", _JOIN, "sh", str(cgroup), *enter),
            *("env", "-i", *(f"{name}={value}" for name, value in variables.items()), *account, *command),
        ]


@dataclass(frozen=True, slots=True)
class Storage:
    """Where a machine's root lies, as the process `holder` sees it: directories of overlayfs."""

    holder: int
    lower: tuple[str, ...]
    directory: Path

    @property
    def upper(self) -> Path:
        return self.directory / "upper"

    def outside(self, path: Path) -> Path:
        """The same file as this process sees it."""
        return Path(f"/proc/{self.holder}/root") / path.relative_to("/")


class Machine:
    """Off until `boot`. What it wrote stays when it is off, and goes with the lab."""

    def __init__(self, spec: HostSpec, storage: Storage, cgroup: Path, directory: Path) -> None:
        """`directory`: an empty one for the machine's process id and console, outside of it."""
        self.spec, self.name, self.storage, self.cgroup = spec, spec.name, storage, cgroup
        self.console = directory / "console"
        self.place = MachinePlace(spec.name, directory / "pid", cgroup)
        self._runner: subprocess.Popen[bytes] | None = None

    # Power

    @property
    def running(self) -> bool:
        return self._runner is not None and self._runner.poll() is None and self.place.leader() is not None

    def power_on(self) -> None:
        """Start it and return at once. Raises LabError when it runs already."""
        if self._runner is not None:
            raise LabError(f"the machine {self.name} runs already")
        for name in ("upper", "work", "root"):
            self.storage.outside(self.storage.directory / name).mkdir(parents=True, exist_ok=True)
        spec = {
            "switch": self.storage.holder,
            "cgroup": str(self.cgroup),
            "name": self.name,
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}.segctl-lab")),
            "lower": self.storage.lower,
            "upper": str(self.storage.upper),
            "work": str(self.storage.directory / "work"),
            "root": str(self.storage.directory / "root"),
            "pid": str(self.place.pid_file),
        }
        with self.console.open("ab") as console:
            self._runner = subprocess.Popen(
                [PYTHON, "-S", "-E", str(HERE / "nspawn" / "boot.py"), json.dumps(spec)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def await_boot(self, seconds: float = 60.0) -> str:
        """Wait until systemd has started everything; "running", or "degraded" when a unit failed. Raises LabError."""

        def up() -> bool:
            if self._runner is None or self._runner.poll() is not None:
                raise LabError(f"the machine {self.name} does not boot: {self.last_words()}")
            leader = self.place.leader()
            # Its private socket is there when systemctl can ask.
            return leader is not None and Path(f"/proc/{leader}/root/run/systemd/private").exists()

        until(f"the machine {self.name} boots", up, seconds)
        state = self.run(["systemctl", "is-system-running", "--wait"], seconds=seconds).stdout.strip()
        if state not in ("running", "degraded"):
            raise LabError(f"the machine {self.name} is {state or 'silent'} after its boot: {self.last_words()}")
        return state

    def boot(self, seconds: float = 60.0) -> str:
        """`power_on`, then `await_boot`."""
        self.power_on()
        return self.await_boot(seconds)

    def reboot(self, seconds: float = 60.0) -> str:
        """An orderly reboot, until everything has started again."""
        self.begin_reboot(seconds)
        return self.await_boot(seconds)

    def begin_reboot(self, seconds: float = 60.0) -> None:
        """An orderly reboot, until the new systemd runs."""
        before = self.place.leader()
        self.run(["systemctl", "reboot"], seconds=seconds)
        until(f"{self.name} goes down and comes up", lambda: self.place.leader() not in (None, before), seconds)

    def crash(self) -> None:
        """The power is gone, in the middle of whatever it does. It stays off, and keeps what it wrote (also what it had
        not yet flushed: its disk is the memory of the lab)."""
        remove_cgroup(self.cgroup)
        self._unplug()
        if self._runner is not None:
            self._runner.wait()
            self._runner = None
        self.place.pid_file.unlink(missing_ok=True)

    def _unplug(self) -> None:
        """The kernel would go on sending for connections that the other end has not closed."""
        switch = ["nsenter", f"--target={self.storage.holder}", "--net"]
        subprocess.run([*switch, "ip", "link", "delete", f"vb-{self.name}"[:15]], capture_output=True, check=False)

    def power_loss(self, seconds: float = 60.0) -> str:
        """`crash`, then `boot`."""
        self.crash()
        return self.boot(seconds)

    def power_off(self, seconds: float = 30.0) -> None:
        """An orderly end; what does not end in time is killed."""
        leader, end = self.place.leader(), time.monotonic() + seconds
        if leader is not None:
            os.kill(leader, signal.SIGRTMIN + 4)  # systemd(1): start poweroff.target
        while self._runner is not None and self._runner.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        self.crash()

    def last_words(self, lines: int = 20) -> str:
        text = self.console.read_text(errors="replace") if self.console.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) or "(nothing on its console)"

    # Commands

    def run(
        self,
        command: Sequence[str],
        unit: str = "",
        user: str = "root",
        stdin: str = "",
        seconds: float = 60.0,
        environment: Mapping[str, str] | None = None,
        here: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` in the machine to its end. Raises subprocess.TimeoutExpired, and LabError while it is off."""
        return subprocess.run(
            self.place.argv(command, unit, user, environment, here),
            input=stdin,
            text=True,
            capture_output=True,
            timeout=seconds,
            check=False,
        )

    def check(self, command: Sequence[str], stdin: str = "", unit: str = "", seconds: float = 60.0) -> str:
        """Run `command`; raises LabError when it fails. Returns its standard output."""
        done = self.run(command, unit=unit, stdin=stdin, seconds=seconds)
        if done.returncode != 0:
            raise LabError(f"{self.name}: {shlex.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def popen(
        self,
        command: Sequence[str],
        unit: str = "",
        user: str = "root",
        stdin: int = subprocess.DEVNULL,
        output: IO[str] | int = subprocess.PIPE,
        environment: Mapping[str, str] | None = None,
        here: Path | None = None,
    ) -> subprocess.Popen[str]:
        """Start `command` in the machine and return at once. The process returned is nsenter(1): to end the command,
        close its standard input or signal it in the machine."""
        return subprocess.Popen(
            self.place.argv(command, unit, user, environment, here),
            text=True,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    # Files and units

    def write(self, path: str, content: str | bytes, mode: int = 0o644, owner: str = "root:root") -> None:
        """Write a file, also while the machine is off (`owner` is then to be numeric)."""
        data = content.encode() if isinstance(content, str) else content
        if self.place.leader() is None:
            target = self.storage.outside(self.storage.upper / path.lstrip("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod(mode)
            return
        argv = self.place.argv(["sh", "-c", _SAVE, "sh", path, f"{mode:o}", owner])
        done = subprocess.run(argv, input=data, capture_output=True, timeout=60, check=False)
        if done.returncode != 0:
            raise LabError(f"{self.name}: cannot write {path}: {done.stderr.decode().strip()}")

    def copy_in(self, source: Path, path: str, mode: int = 0o644, owner: str = "root:root") -> None:
        """A file of this machine into the lab's."""
        self.write(path, source.read_bytes(), mode, owner)

    def read(self, path: str) -> str:
        return self.check(["cat", path])

    def systemctl(self, *arguments: str, seconds: float = 60.0) -> str:
        """Raises LabError, with the end of the unit's journal, when it fails."""
        done = self.run(["systemctl", *arguments], seconds=seconds)
        if done.returncode != 0:
            journal = self.journal(arguments[-1]) if len(arguments) > 1 else ""
            raise LabError(f"{self.name}: systemctl {' '.join(arguments)}: {done.stderr.strip()}\n{journal}")
        return done.stdout

    def restart_unit(self, unit: str) -> tuple[int, int]:
        """Restart a service. Returns its cgroup's inode before and after."""
        before = self.unit_inode(unit)
        self.systemctl("restart", unit)
        return before, self.unit_inode(unit)

    def unit_inode(self, unit: str) -> int:
        return (self.cgroup / "payload" / unit_cgroup(unit)).stat().st_ino

    def show(self, unit: str, name: str) -> str:
        """A property of a unit, as `systemctl show` prints it."""
        return self.systemctl("show", "--property", name, "--value", unit).strip()

    def main_pid(self, unit: str) -> int:
        """As the machine counts."""
        return int(self.show(unit, "MainPID"))

    def await_restart(self, unit: str, pid: int, seconds: float = 30.0) -> None:
        """Wait until another main process than `pid` of a service is up."""

        def renewed() -> bool:
            return self.main_pid(unit) not in (0, pid) and self.show(unit, "ActiveState") == "active"

        until(f"{self.name}: {unit} runs anew", renewed, seconds, every=0.2)

    def kill_unit(self, unit: str, signal_name: str = "SIGKILL", whom: str = "main") -> None:
        self.systemctl("kill", f"--signal={signal_name}", f"--kill-whom={whom}", unit)

    def journal(self, unit: str, *options: str, lines: int = 40) -> str:
        """Messages of a unit, without time and host."""
        command = ["journalctl", "--no-pager", "--output=cat", f"--lines={lines}", f"--unit={unit}", *options]
        return self.run(command).stdout
