"""Two controllers on one PostgreSQL beside one: how soon a push is everywhere, and what happens when one dies."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from time import monotonic, sleep, time

from bench.fleet.crowds import Crowds, crowds
from bench.fleet.identities import Member
from bench.fleet.operator import operator_of
from bench.fleet.policies import bulk_policy, fleet_hosts
from bench.fleet.process import ControllerProcess
from bench.fleet.replicas import replicas
from bench.fleet.reports import Load
from bench.fleet.stage import quiet
from bench.measures_fleet.kills import compare
from bench.rows import Goal, Row
from bench.statistic import percentile

SECONDS = 1500.0
AGENTS, ROUNDS = 3_000, 5
QUICK_AGENTS, QUICK_ROUNDS = 60, 2
MOVING_AGENTS, KILLS = 400, 50
QUICK_MOVING_AGENTS, QUICK_KILLS = 20, 2
LOAD = Load(seconds=3.0, denials=1)
HEARTBEAT = 2
RULES_BYTES = 2_000
FROZEN_SECONDS = 60.0


def measure(quick: bool) -> list[Row]:
    pushed = (QUICK_AGENTS, QUICK_ROUNDS) if quick else (AGENTS, ROUNDS)
    moved = (QUICK_MOVING_AGENTS, QUICK_KILLS) if quick else (MOVING_AGENTS, KILLS)
    return [*_push_rows(*pushed), *_death_rows(*moved)]


# A push


def _push_rows(agents: int, rounds: int) -> list[Row]:
    with replicas(fleet_hosts(agents)) as (one, two, members):
        with crowds([member.at([one.address]) for member in members]) as fleet:
            alone = _pushes(fleet, one, [one], rounds)
        two.start()
        # Every other one is at each: neither controller has hosts of one kind alone.
        halves = [member.at([(one, two)[at % 2].address]) for at, member in enumerate(members)]
        with crowds(halves) as fleet:
            both = _pushes(fleet, one, [one, two], rounds)
    how = (
        f"{rounds} pushes of {RULES_BYTES // 1000} KB to {agents} agents in two processes, which share the cores with "
        "PostgreSQL and the controllers; from the request until the last agent had stored it"
    )
    return [
        Row(
            "push on two replicas, times one process",
            median(both) / median(alone),
            "x",
            f"{how}; medians, one controller on the same PostgreSQL before",
            Goal("<=", 1.5),
        ),
        Row("push on two replicas to the last agent, p50", median(both), "ms", f"{how}; half of them at each"),
        Row("push on one process to the last agent, p50", median(alone), "ms", f"{how}; on PostgreSQL"),
    ]


def _pushes(fleet: Crowds, asked: ControllerProcess, serving: Sequence[ControllerProcess], rounds: int) -> list[float]:
    """Milliseconds."""
    fleet.connect()
    fleet.settle()
    found = []
    with operator_of(asked.base / "root") as operator:
        operator.push(bulk_policy(RULES_BYTES, 0))  # not the same as those that are measured
        for turn in range(1, rounds + 1):
            for controller in serving:
                quiet(controller.pid)
            fleet.expect(stored=True)
            pushed = operator.push(bulk_policy(RULES_BYTES, turn))
            found.append((fleet.expected()[-1] - pushed.requested) * 1000)
    return found


# A death


def _death_rows(agents: int, kills: int) -> list[Row]:
    with replicas(fleet_hosts(agents), HEARTBEAT) as (one, two, members), _reporting(members, one, two) as fleet:
        with operator_of(one.base / "root") as operator:
            operator.push(bulk_policy(1))
        return [*_kill_rows(fleet, one, two, kills), _freeze_row(fleet, one, two)]


@contextmanager
def _reporting(members: Sequence[Member], one: ControllerProcess, two: ControllerProcess) -> Iterator[Crowds]:
    """All agents are at `one`."""
    two.start()
    with crowds([member.at([one.address, two.address]) for member in members], LOAD, steady=True) as fleet:
        fleet.connect()
        fleet.settle()
        yield fleet


def _kill_rows(fleet: Crowds, one: ControllerProcess, two: ControllerProcess, kills: int) -> list[Row]:
    """All agents are where the next one dies: at each kill all of them move."""
    checked: dict[str, int] = {}
    acknowledged = lost = 0
    back = []
    since = time()
    for turn in range(kills):
        dies, lives = (one, two) if turn % 2 == 0 else (two, one)
        sleep(random.uniform(0.5, 2.0))
        back.append(_moved(fleet, dies, dies.kill))
        told, missing, since = compare(fleet, lives, checked, since)
        acknowledged, lost = acknowledged + told, lost + missing
        dies.start()
    if kills % 2:
        _moved(fleet, two, two.kill)
        two.start()
    how = (
        f"{kills} SIGKILLs of one of two controllers by turns, at which all of the {fleet.size} agents are; each "
        f"reports a denial every {LOAD.seconds:g} s"
    )
    return [
        Row(
            "agents back at the other replica after a SIGKILL, p50",
            median(back),
            "s",
            f"{how}. Until the last was greeted; p90 {percentile(back, 0.9):.2f} s",
            Goal("<=", 1),
        ),
        Row(
            "acknowledged reports lost with a replica",
            lost,
            "reports",
            f"{how}. Of {acknowledged} that were acknowledged, those whose denials were not in the database afterwards",
            Goal("==", 0),
        ),
    ]


def _freeze_row(fleet: Crowds, one: ControllerProcess, two: ControllerProcess) -> Row:
    frozen = one.pid
    try:
        seconds = _moved(fleet, one, lambda: os.kill(frozen, signal.SIGSTOP))
    finally:
        os.kill(frozen, signal.SIGCONT)
    how = f"SIGSTOP of the one at which all of {fleet.size} agents are; until the last was greeted by the other"
    return Row("agents back at the other replica after a freeze", seconds, "s", how, Goal("<=", 10))


def _moved(fleet: Crowds, controller: ControllerProcess, away: Callable[[], None]) -> float:
    """Seconds until all agents that `controller` has are with the other one."""
    sessions = fleet.totals()["sessions"]
    (had,) = re.findall(r"^segctl_controller_sessions (\d+)", controller.metrics(), re.MULTILINE)
    began = monotonic()
    away()
    return fleet.connected_after(began, sessions + int(had) - fleet.size, FROZEN_SECONDS)
