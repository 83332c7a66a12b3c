"""Which process of a cgroup holds a socket. Only that cgroup's processes are looked at: all of /proc costs 35 ms."""

from __future__ import annotations

import errno
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
    """The first process in the cgroup directory `cgroup` with the socket `inode` open."""
    return find_holders(frozenset({inode}), cgroup, proc)[inode]


def process_ids(cgroup: Path) -> list[int]:
    """The processes of a cgroup. A threaded one tells its threads only (cgroups(7)), which /proc knows, too. Raises
    OSError."""
    try:
        text = (cgroup / "cgroup.procs").read_text()
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        text = (cgroup / "cgroup.threads").read_text()
    return [int(line) for line in text.split()]


def find_holders(inodes: frozenset[int], cgroup: Path, proc: Path = Path("/proc")) -> dict[int, Holder]:
    """For every socket the first process in the cgroup directory `cgroup` that has it open, in one pass over 512
    processes and 16384 descriptors at most."""
    found: dict[int, Holder] = {}
    try:
        pids = process_ids(cgroup)
    except OSError as error:
        return dict.fromkeys(inodes, Holder(0, f"cannot read {error.filename or cgroup}: {error.strerror}"))
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    reason = "the process had ended, or had moved to another cgroup"
    if len(pids) > MAX_PIDS:
        reason = f"its cgroup has more than {MAX_PIDS} processes"
    left = MAX_DESCRIPTORS
    for pid in pids[:MAX_PIDS]:
        try:
            left -= _open_sockets(pid, proc, wanted, found, left)
        except PermissionError:
            reason = "no permission to read /proc/PID/fd (needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH)"
        except OSError:  # the process has ended
            continue
        if not wanted:
            break
        if left <= 0:
            reason = f"its cgroup has more than {MAX_DESCRIPTORS} open files"
            break
    return found | dict.fromkeys(wanted.values(), Holder(0, reason))


def _open_sockets(pid: int, proc: Path, wanted: dict[str, int], found: dict[int, Holder], limit: int) -> int:
    """Moves the sockets of a process from `wanted` to `found`; answers how many descriptors it looked at."""
    seen = 0
    with os.scandir(proc / str(pid) / "fd") as entries:
        for entry in entries:
            seen += 1
            inode = wanted.pop(_target(entry.path), None)
            if inode is not None:
                found[inode] = Holder(pid)
            if not wanted or seen >= limit:
                break
    return seen


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
