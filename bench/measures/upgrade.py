"""The agent's package is replaced by a newer and by the older version in turns, under probes: none may go wrong."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bench.pair import Pair
from bench.probing import ProbeCounts, Wrong
from bench.rows import Goal, Row
from lab.packages import AGENT, build_packages, other_version

_ENOUGH = 100_000
_SECONDS = 150.0


def measure(quick: bool) -> list[Row]:
    """Rows of wrong verdicts; the goal is none."""
    wanted = _ENOUGH // 10 if quick else _ENOUGH
    packages = build_packages()
    with tempfile.TemporaryDirectory() as folder, Pair(packages) as pair:
        older = {AGENT: packages[AGENT]}
        newer = other_version(older, "+newer", Path(folder))
        done, deadline = 0, time.monotonic() + _SECONDS
        with pair.probing() as prober:
            while done < 2 or (prober.running and prober.probes < wanted and time.monotonic() < deadline):
                version = newer if done % 2 == 0 else older
                pair.install_version(version)
                if (running := pair.running_version()) not in version[AGENT].name:
                    raise RuntimeError(f"{version[AGENT].name} is installed, but the agent that runs is {running}")
                done += 1
            counts, wrong = prober.finish()
    return rows(counts, done, wrong)


def rows(counts: ProbeCounts, done: int, wrong: list[Wrong]) -> list[Row]:
    how = (
        f"{counts.allowed} allowed and {counts.denied} denied connections with listeners, and {counts.exchanges} "
        f"exchanges on two long-lived ones, during {done} replacements of the Debian package by a newer and an older "
        "version in turns, on a systemd machine"
    )
    if wrong:
        how = f"{how}; {wrong[0].what}"
    none = Goal("==", 0)
    return [
        Row("agent upgrade: leaked", counts.wrongly_allowed, "connections", how, none),
        Row("agent upgrade: dropped", counts.wrongly_dropped + counts.stalled, "connections", how, none),
        Row("agent upgrade: probes", counts.probes, "connections", how, Goal(">=", _ENOUGH)),
    ]
