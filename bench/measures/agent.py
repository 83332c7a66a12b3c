"""A real agent in the lab: a unit's start until its rules are in force, an idle agent's cost, a start from disk."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from statistics import median

from segctl_agent.identity import leaf_map
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.ruleset import TABLE

from bench.lab_figures import in_network_of, shop_in_force, store_policy
from bench.lookup import ElementLookup
from bench.rows import Goal, Row
from bench.statistic import percentile
from bench.usage import usage
from lab.fleet import AGENT_UNIT, Fleet
from lab.host import LabHost
from lab.wait import until

_HOST = "db1"
_ENTRIES = 10_000
_MAP = leaf_map(2, "in")
_UNIT_GOAL, _UNIT_P95_GOAL = Goal("<=", 1), Goal("<=", 3)
_MEMORY_GOAL, _START_GOAL = Goal("<", 60), Goal("<", 1000)


def measure(quick: bool) -> list[Row]:
    """Rows of one agent among five, its controller connected except while it starts from disk."""
    starts, idle_seconds, boots = (5, 2.0, 1) if quick else (100, 30.0, 7)
    with shop_in_force() as fleet:
        rows = [*_unit_starts(fleet, starts), *_idle(fleet, idle_seconds, "the shop's policy")]
        fleet.stop_controller()
        rows += _starts_from_disk(fleet, boots)
        return rows + _idle(fleet, idle_seconds, f"{_ENTRIES // 1000}k entries")


def _unit_starts(fleet: Fleet, count: int) -> list[Row]:
    host = fleet.lab.hosts[_HOST]
    with in_network_of(host):
        lookup = ElementLookup(_MAP)
    with lookup:
        times = [_unit_start(host.cgroup / "system.slice" / f"bench-{n}.service", lookup) for n in range(count)]
        resolution = _look_us(lookup)
    how = (
        f"{count} units on {_HOST}, from mkdir of the cgroup until its element is in the kernel's map {_MAP}, which "
        f"another process looks up in a loop ({resolution:.0f} us a look, giving way to others after each); the agent "
        "watches with inotify"
    )
    return [
        Row("unit start until its rules are in force, p50", median(times), "ms", how, _UNIT_GOAL),
        Row("unit start until its rules are in force, p95", percentile(times, 0.95), "ms", how, _UNIT_P95_GOAL),
    ]


def _unit_start(cgroup: Path, lookup: ElementLookup) -> float:
    started = time.perf_counter()
    cgroup.mkdir()
    try:
        key = cgroup.stat().st_ino.to_bytes(8, sys.byteorder)
        while not lookup.holds(key):
            # A busy loop would keep the agent from this core for a whole time slice, which no unit's start does.
            os.sched_yield()
            if time.perf_counter() - started > 5:
                raise TimeoutError(f"{cgroup.name} was not in the map {_MAP} of {_HOST} after 5 s")
        return (time.perf_counter() - started) * 1000
    finally:
        cgroup.rmdir()
        time.sleep(0.02)  # The removal is an event too: the next start is to find an idle agent.


def _look_us(lookup: ElementLookup) -> float:
    started = time.perf_counter()
    for _ in range(1000):
        lookup.holds(bytes(8))
    return (time.perf_counter() - started) * 1e3


def _idle(fleet: Fleet, seconds: float, what: str) -> list[Row]:
    cgroup = fleet.lab.units[_HOST].cgroup(AGENT_UNIT)
    before = usage(cgroup)
    time.sleep(seconds)
    after = usage(cgroup)
    how = f"the agent of {_HOST} with {what}, nothing happening for {seconds:g} s; PSS {after.proportional:.1f} MB"
    share = (after.cpu - before.cpu) / seconds * 100
    return [
        Row(
            f"agent idle, memory, {what}",
            after.resident,
            "MB RSS",
            how,
            _MEMORY_GOAL,
        ),
        Row(f"agent idle, CPU, {what}", share, "% of a core", how),
    ]


def _starts_from_disk(fleet: Fleet, count: int) -> list[Row]:
    """The controller is down: what is enforced comes from the disk."""
    fleet.kill_agent(_HOST)
    store_policy(fleet, _HOST, _ENTRIES)
    times = [_start_from_disk(fleet) for _ in range(count)]
    elements = _elements(fleet.lab.hosts[_HOST])
    if elements < _ENTRIES:
        raise RuntimeError(f"the agent said it was ready, but the kernel of {_HOST} holds only {elements} elements")
    how = (
        f"median of {count}, {_ENTRIES} entries on disk, killed before, no table in the kernel, no controller: from "
        "the command to READY=1, with setpriv, the interpreter and the imports"
    )
    return [Row("agent start until enforced from disk", median(times), "ms", how, _START_GOAL)]


def _start_from_disk(fleet: Fleet) -> float:
    if fleet.lab.units[_HOST].running(AGENT_UNIT):
        fleet.kill_agent(_HOST)
    fleet.nft(_HOST, "delete", "table", "inet", TABLE)
    started = time.perf_counter()
    fleet.start_agent(_HOST)
    return (time.perf_counter() - started) * 1000


def _elements(host: LabHost) -> int:
    with in_network_of(host):
        kernel = NetlinkKernel()
    try:
        held = until("the agent's table is in the kernel", kernel.read, 1)
    finally:
        kernel.close()
    return sum(len(s.elements) for s in held.sets.values()) if held else 0
