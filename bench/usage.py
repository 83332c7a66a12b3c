"""What the processes of a unit cost."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all processes of a unit: CPU seconds so far, resident and proportional memory in MB (10^6 bytes)."""

    cpu: float
    resident: float
    proportional: float


def usage(cgroup: Path) -> Usage:
    cpu = resident = proportional = 0.0
    for pid in (cgroup / "cgroup.procs").read_text().split():
        # proc_pid_stat(5): utime and stime are fields 14 and 15; the name may hold spaces.
        fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
        cpu += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        rollup = Path("/proc", pid, "smaps_rollup").read_text().splitlines()[1:]
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in rollup}
        resident += kilobytes["Rss"] * 1024 / 1e6
        proportional += kilobytes["Pss"] * 1024 / 1e6
    return Usage(cpu, resident, proportional)
