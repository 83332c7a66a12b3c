"""What the exec gate costs: the start of a program that it marks, and of one that it does not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from segctl.systemd import Notifier
from segctl_agent.execgate.command import run_gate
from segctl_agent.execgate.names import gate_cgroup
from segctl_agent.execgate.targets import FILE

from bench.rows import Row
from bench.sandbox import CGROUP_MOUNT, join_cgroup
from bench.statistic import paired_ratio, spread

WORKLOAD = "bench"
UNIT = "system.slice/bench.service"
READY_SECONDS = 10.0


def measure(quick: bool) -> list[Row]:
    """Context rows; microseconds of posix_spawn to the end of the program, `true`, in pairs and in turns."""
    cycles, pairs = (3, 30) if quick else (9, 150)
    with tempfile.TemporaryDirectory() as folder:
        marked, plain = Path(folder, "marked"), Path(folder, "plain")
        for copy in (marked, plain):
            shutil.copy("/bin/true", copy)
        state = Path(folder, "state")
        state.mkdir()
        (state / FILE).write_text(json.dumps([{"workload": WORKLOAD, "path": str(marked)}]))
        join_cgroup(UNIT)
        with_gate: list[tuple[float, float]] = []
        of_marked: list[tuple[float, float]] = []
        of_plain: list[tuple[float, float]] = []
        for _ in range(cycles):
            without, alone = _pairs(marked, plain, pairs), _often(plain, pairs)
            with _gate(state, marked):
                gated, beside = _pairs(marked, plain, pairs), _often(plain, pairs)
            with_gate += gated
            of_marked.append((median(a for a, _ in gated), median(a for a, _ in without)))
            of_plain.append((beside, alone))
    how = f"posix_spawn of a copy of true until it ended, {cycles} turns with and without the gate of {pairs} pairs"
    added = spread([a - b for a, b in with_gate])
    return [
        _ratio("exec of a marked file, over the same without the gate", of_marked, how),
        Row("exec of a marked file, more than of its unmarked copy", added.p50, "us", f"{how}; {added}"),
        _ratio("exec of an unmarked file, gate on over gate off", of_plain, how),
    ]


def _ratio(name: str, samples: list[tuple[float, float]], how: str) -> Row:
    ratio = paired_ratio([a for a, _ in samples], [b for _, b in samples])
    return Row(name, ratio.p50, "ratio", f"{how}; medians of the turns, paired; {ratio}")


def _pairs(marked: Path, plain: Path, number: int) -> list[tuple[float, float]]:
    for program in (marked, plain):
        _start(program)
    return [(_start(marked), _start(plain)) for _ in range(number)]


def _often(program: Path, number: int) -> float:
    return median(_start(program) for _ in range(number))


def _start(program: Path) -> float:
    begun = time.perf_counter()
    _, status = os.waitpid(os.posix_spawn(program, [program.name], {}), 0)
    took = time.perf_counter() - begun
    if status:
        raise RuntimeError(f"{program} ended with status {status}")
    return took * 1e6


@contextmanager
def _gate(state: Path, marked: Path) -> Iterator[None]:
    pid = os.fork()
    if pid == 0:
        join_cgroup("system.slice/gate.service")
        os._exit(run_gate(state, Notifier({})))
    where = CGROUP_MOUNT / UNIT / gate_cgroup(WORKLOAD)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not where.exists():
            if time.monotonic() > deadline:
                raise RuntimeError("the exec gate did not begin: fanotify needs CAP_SYS_ADMIN")
            _start(marked)
        yield
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        if where.exists():
            where.rmdir()
