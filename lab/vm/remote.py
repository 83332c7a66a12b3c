"""A machine that is reached by ssh(1), as root. Its commands join the cgroup that they are to run in."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.accounts import uid
from lab.instance import LabError
from lab.topology import session_cgroup, unit_cgroup

FOLDER = "/opt/segctl-lab"
"""Where a machine has `lab/`, the packages and policies."""
PROGRAM = ("/usr/bin/python3", "-I", "-S", f"{FOLDER}/lab/programs.py")

ONE_CONNECTION = ("-o", "ControlMaster=auto", "-o", "ControlPersist=3600", "-o", "ServerAliveInterval=10")
"""Of ssh(1): it serves all commands, and ends with its machine. Of two commands that would both begin it, one warns."""

_JOIN = 'd=/sys/fs/cgroup/$1; shift; mkdir -p "$d" && echo $$ >"$d/cgroup.procs" && exec "$@"'


@dataclass(frozen=True, slots=True)
class RemoteHost:
    """`ssh`: the command line that reaches it, up to and with the destination. `sudo`: what makes its user root."""

    name: str
    ssh: tuple[str, ...]
    sudo: tuple[str, ...] = ()

    def _argv(self, command: Sequence[str], unit: str, user: str, bound: bool = False) -> list[str]:
        cgroup = unit_cgroup(unit) if unit else session_cgroup(uid(user))
        account = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        bounds = [*PROGRAM, "bound"] if bound else []
        wrapped = ["sh", "-c", _JOIN, "sh", cgroup, *account, *command]
        return [*self.ssh, shlex.join([*self.sudo, *bounds, *wrapped])]

    def run(
        self, command: Sequence[str], unit: str = "", user: str = "root", stdin: str = "", seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` to its end. Raises subprocess.TimeoutExpired, and LabError when ssh itself fails."""
        argv = self._argv(command, unit, user)
        done = subprocess.run(argv, input=stdin, text=True, capture_output=True, timeout=seconds, check=False)
        if done.returncode == 255:
            raise LabError(f"{self.name} cannot be reached: {done.stderr.strip()}")
        return done

    def check(self, command: Sequence[str], stdin: str = "", seconds: float = 60) -> str:
        """Run `command`; raises LabError when it fails. Returns its standard output."""
        done = self.run(command, stdin=stdin, seconds=seconds)
        if done.returncode != 0:
            raise LabError(f"{self.name}: {shlex.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def popen(self, command: Sequence[str], unit: str = "", user: str = "root") -> subprocess.Popen[str]:
        """Start it and return at once; when the process returned ends, `command` ends too."""
        return subprocess.Popen(
            self._argv(command, unit, user, bound=True),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def reachable(self, seconds: float = 10) -> bool:
        """Whether it answers and has started everything."""
        try:
            done = self.run(["systemctl", "is-system-running"], seconds=seconds)
        except (LabError, subprocess.TimeoutExpired):
            return False
        return done.stdout.strip() in ("running", "degraded")

    def copy(self, source: Path, target: str, *names: str) -> None:
        """Copy `names` in the directory `source` into the directory `target` there, which need not exist; everything is
        readable by its ordinary users."""
        pack = ["tar", "-C", str(source), "--exclude=__pycache__", "--mode=go+rX", "-cf", "-", *names]
        unpack = ["sh", "-ec", 'mkdir -p "$1"; exec tar -C "$1" --no-same-owner -xf -', "sh", target]
        packed = subprocess.run(pack, capture_output=True, check=True)
        argv = self._argv(unpack, "", "root")
        done = subprocess.run(argv, input=packed.stdout, capture_output=True, timeout=300, check=False)
        if done.returncode != 0:
            raise LabError(f"{self.name}: cannot copy {source} to {target}: {done.stderr.decode().strip()}")
