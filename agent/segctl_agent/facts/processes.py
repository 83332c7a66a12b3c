"""Which process of a cgroup holds a socket. Only that cgroup's processes are looked at: all of /proc costs 35 ms."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

MAX_PIDS = 512
MAX_DESCRIPTORS = 16384


@dataclass(frozen=True, slots=True)
class Holder:
    """`pid` is 0 when no process was found, and `reason` then says why."""

    pid: int
    reason: str = ""


def find_holder(inode: int, cgroup: Path, proc: Path = Path("/proc")) -> Holder:
    """The first process in the cgroup directory `cgroup` with the socket `inode` open; looks at 512 processes and
    16384 descriptors at most."""
    try:
        pids = [int(line) for line in (cgroup / "cgroup.procs").read_text().split()]
    except OSError as error:
        return Holder(0, f"cannot read {cgroup / 'cgroup.procs'}: {error.strerror}")
    wanted = f"socket:[{inode}]"
    descriptors = 0
    denied = False
    for pid in pids[:MAX_PIDS]:
        try:
            with os.scandir(proc / str(pid) / "fd") as entries:
                for entry in entries:
                    descriptors += 1
                    if descriptors > MAX_DESCRIPTORS:
                        return Holder(0, f"its cgroup has more than {MAX_DESCRIPTORS} open files")
                    if _target(entry.path) == wanted:
                        return Holder(pid)
        except PermissionError:
            denied = True
        except OSError:  # the process has ended
            continue
    if denied:
        return Holder(0, "no permission to read /proc/PID/fd (needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH)")
    if len(pids) > MAX_PIDS:
        return Holder(0, f"its cgroup has more than {MAX_PIDS} processes")
    return Holder(0, "the process had ended, or had moved to another cgroup")


def _target(entry: str) -> str:
    try:
        return os.readlink(entry)  # noqa: PTH115  a Path per descriptor would cost five times as much
    except FileNotFoundError:  # closed between the listing and now
        return ""


def process_name(pid: int) -> str:
    """What a process is called; empty when it has ended or may not be read."""
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return ""
