"""Looks at which process is in which cgroup, for `segctl_agent.moves`. Costs a read for each cgroup of a named
workload, and another for each process that was not there before."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from segctl_agent.facts.cgroups import CGROUP_ROOT
from segctl_agent.facts.processes import process_name
from segctl_agent.moves import MOST, Look, Process, describe_move, find_moves

MOVES_SECONDS = 3.0
MAX_CGROUPS = 2048
MAX_PROCESSES = 8192
_TICKS = os.sysconf("SC_CLK_TCK")


class MoveWatcher:
    """`look` every few seconds, from one thread at a time. `workload_of` may change between looks: what a new policy
    names otherwise is no move."""

    def __init__(self, root: Path = CGROUP_ROOT, proc: Path = Path("/proc"), rest: str = "host") -> None:
        self._root, self._proc, self._rest = root, proc, rest
        self._before: Look | None = None

    def look(self, paths: Iterable[str], workload_of: Callable[[str], str]) -> tuple[str, ...]:
        """A sentence for each process that was moved since the last look; the first look only remembers. `paths` are
        all cgroups, `workload_of` tells whose one is."""
        every = list(paths)
        now = self._look(every, workload_of)
        before, self._before = self._before, now
        if before is None:
            return ()
        moves = find_moves(before, now, workload_of, self._rest)
        told = [describe_move(m, process_name(m.pid)) for m in moves[:MOST]]
        more = len(moves) - MOST
        return (*told, f"{more} more processes were moved in the same moment") if more > 0 else tuple(told)

    def _look(self, paths: list[str], workload_of: Callable[[str], str]) -> Look:
        at = time.clock_gettime(time.CLOCK_BOOTTIME)
        known = self._before.processes if self._before is not None else {}
        found: dict[int, Process] = {}
        listed = set()
        for path in [path for path in paths if workload_of(path) != self._rest][:MAX_CGROUPS]:
            pids = self._pids(path)
            if pids is None or len(found) + len(pids) > MAX_PROCESSES:
                continue
            listed.add(path)
            for pid in pids:
                here = known.get(pid)
                if here is None or here.path != path:
                    here = self._process(pid, path)
                if here is not None:
                    found[pid] = here
        for pid, gone in known.items():
            if pid not in found and workload_of(gone.path) != self._rest:
                still = self._wherever(gone)
                if still is not None:
                    found[pid] = still
        return Look(at, found, frozenset(paths), frozenset(listed))

    def _pids(self, path: str) -> list[int] | None:
        """None when it is gone, or has threads only. 0 stands for a process of a pid namespace that we do not see."""
        try:
            text = Path(self._root, path, "cgroup.procs").read_bytes()
        except OSError:
            return None
        return [pid for line in text.split() if (pid := int(line))]

    def _process(self, pid: int, path: str) -> Process | None:
        started = self._started(pid)
        return Process(pid, started, path) if started is not None else None

    def _wherever(self, gone: Process) -> Process | None:
        """The same process in another cgroup; None when it has ended. Version 2 is the line 0::/PATH (cgroups(7))."""
        try:
            lines = os.fsdecode(Path(self._proc, str(gone.pid), "cgroup").read_bytes()).split("\n")
        except OSError:
            return None
        path = next((line[4:] for line in lines if line.startswith("0::/")), gone.path)
        if path == gone.path or path.startswith("..") or path.endswith(" (deleted)"):
            return None
        return Process(gone.pid, gone.started, path) if self._started(gone.pid) == gone.started else None

    def _started(self, pid: int) -> float | None:
        """Field 22 of /proc/PID/stat, counted after the name, which may hold anything (proc_pid_stat(5))."""
        try:
            fields = Path(self._proc, str(pid), "stat").read_bytes().rpartition(b")")[2].split()
            return int(fields[19]) / _TICKS
        except (OSError, IndexError, ValueError):
            return None
