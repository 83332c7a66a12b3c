"""A lab host: namespaces with a cgroup root of their own, and commands that run in them as a unit and as a user."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lab.accounts import uid
from lab.instance import Instance, LabError
from lab.topology import session_cgroup, unit_cgroup

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
SOURCE = "/run/segctl-src"
"""Where every host sees the repository, readable by its ordinary users even when the repository lies in /root."""
VENV = "/run/segctl-venv"
"""Where every host sees the virtual environment that the lab runs from."""
PYTHON = "/usr/bin/python3"
PROGRAM = (PYTHON, "-I", "-S", f"{SOURCE}/lab/programs.py")


@dataclass(frozen=True, slots=True)
class Place:
    """What is needed to enter a host, also by a process that did not raise the lab."""

    name: str
    pid: int
    cgroup: str

    def argv(self, command: Sequence[str], unit: str = "", user: str = "root") -> list[str]:
        """The command line that runs `command` here: in the cgroup of `unit` (a name or a path with a slash), else in a
        login session of `user`."""
        below = unit_cgroup(unit) if unit else session_cgroup(uid(user))
        spec = {"pid": self.pid, "cgroup": f"{self.cgroup}/{below}", "user": user}
        return [PYTHON, "-S", "-E", str(HERE / "ns.py"), "enter", json.dumps(spec), "--", *command]


def _binds(instance: Instance, name: str, etc: dict[str, str]) -> list[tuple[str, str]]:
    """Private /run and /var/lib; in /run the repository and the lab's own directory keep a place."""
    own = instance.directory / "hosts" / name
    run, lib = own / "run", own / "lib"
    inner = run / "segctl-lab" / instance.name
    for directory in (lib, inner, run / "segctl-src", run / "segctl-venv"):
        directory.mkdir(parents=True)
    return [
        (str(instance.directory), str(inner)),
        (str(REPOSITORY), str(run / "segctl-src")),
        (sys.prefix, str(run / "segctl-venv")),
        (str(run), "/run"),
        (str(lib), "/var/lib"),
        *((source, target) for target, source in etc.items()),
    ]


SYSCTLS = {
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/default/router_solicitations": "0",
    "net/ipv4/ip_unprivileged_port_start": "0",
    "net/ipv4/ping_group_range": "0 2147483647",
}


class LabHost:
    """Started by its constructor, usable after `ready`, gone with its instance."""

    def __init__(self, instance: Instance, name: str, etc: dict[str, str]) -> None:
        self.name = name
        self.cgroup = instance.cgroup / name
        self.logs = instance.directory / "log" / name
        self.notify = instance.directory / "notify"
        self.state = instance.directory / "hosts" / name
        for directory in ("", "init.scope", "system.slice", "user.slice"):
            (self.cgroup / directory).mkdir()
        self.logs.mkdir(parents=True)
        self.notify.mkdir(mode=0o755, exist_ok=True)
        spec = {"cgroup": str(self.cgroup), "hostname": name, "binds": _binds(instance, name, etc), "sysctls": SYSCTLS}
        self._holder = subprocess.Popen(
            [PYTHON, "-S", "-E", str(HERE / "ns.py"), "hold", json.dumps(spec)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.place = Place(name, self._holder.pid, str(self.cgroup))

    def ready(self, seconds: float = 20.0) -> None:
        """Wait until the namespaces are made; raises LabError with the reason when they are not."""
        out, err = self._holder.stdout, self._holder.stderr
        assert out is not None and err is not None
        readable, _, _ = select.select([out], [], [], seconds)
        if not readable or out.readline() != b"ready\n":
            self._holder.kill()
            raise LabError(
                f"host {self.name} cannot be made: {err.read().decode().strip() or f'not ready in {seconds:g} s'}"
            )
        out.close()
        err.close()

    def close(self) -> None:
        """Reap the holder; its namespaces end with it and with the processes in its cgroup."""
        self._holder.kill()
        self._holder.wait()

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
        """Start `command` here, in the directory `here`, and return at once; it ends at the latest with the lab. Its
        standard error goes where its standard output goes."""
        return subprocess.Popen(
            self.place.argv(command, unit, user),
            text=True,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=here,
            env={**os.environ, **(environment or {})},
        )

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
        """Run `command` to its end, in the directory `here`. Raises subprocess.TimeoutExpired after `seconds`."""
        return subprocess.run(
            self.place.argv(command, unit, user),
            input=stdin,
            text=True,
            capture_output=True,
            timeout=seconds,
            check=False,
            cwd=here,
            env={**os.environ, **(environment or {})},
        )

    def check(self, command: Sequence[str], stdin: str = "", unit: str = "") -> str:
        """Run `command`; raises LabError when it fails. Returns its standard output."""
        done = self.run(command, unit=unit, stdin=stdin)
        if done.returncode != 0:
            raise LabError(f"{self.name}: {' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout
