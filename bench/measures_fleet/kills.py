"""Controllers that die or freeze: what was acknowledged must be in the database, and agents must be back soon."""

from __future__ import annotations

import os
import random
import signal
from statistics import median
from time import monotonic, sleep, time

from segctl.proto.v1 import admin_pb2
from segctl_controller.setup import open_store
from segctl_controller.store.records import DenialFilter

from bench.fleet.crowds import Crowds
from bench.fleet.policies import bulk_policy, fleet_hosts
from bench.fleet.process import ControllerProcess
from bench.fleet.reports import Load, program
from bench.fleet.stage import Stage, connected, new_controller
from bench.rows import Goal, Row
from bench.statistic import percentile

SECONDS = 900.0
AGENTS, KILLS = 100, 50
QUICK_AGENTS, QUICK_KILLS = 20, 2
LOAD = Load(seconds=0.3, denials=1)
REPORTING_SECONDS = (0.5, 2.0)
"""Between two kills, in which reports arrive."""
HEARTBEAT = 2
FROZEN_SECONDS = 30.0
_SLACK_SECONDS = 300.0
"""A report may have waited for so long before it was acknowledged."""


def measure(quick: bool) -> list[Row]:
    agents, kills = (QUICK_AGENTS, QUICK_KILLS) if quick else (AGENTS, KILLS)
    with (
        new_controller(fleet_hosts(agents), HEARTBEAT) as (controller, members),
        connected(controller, members, LOAD, steady=True) as stage,
    ):
        stage.operator.push(bulk_policy(1))
        return [*_kill_rows(stage, kills), *_freeze_rows(stage)]


def _kill_rows(stage: Stage, kills: int) -> list[Row]:
    fleet, controller = stage.fleet, stage.controller
    checked: dict[str, int] = {}
    acknowledged = lost = 0
    back = []
    since = time()
    for _ in range(kills):
        sleep(random.uniform(*REPORTING_SECONDS))
        sessions = fleet.totals()["sessions"]
        controller.kill()
        told, missing, since = compare(fleet, controller, checked, since)
        acknowledged, lost = acknowledged + told, lost + missing
        controller.start()
        back.append(fleet.connected_after(monotonic(), sessions))
    how = (
        f"{kills} SIGKILLs of a controller on SQLite, {fleet.size} agents with a denial each every {LOAD.seconds:g} s. "
    )
    return [
        Row(
            "acknowledged reports lost",
            lost,
            "reports",
            how + f"Of {acknowledged} that were acknowledged, those whose denials were not in the database afterwards",
            Goal("==", 0),
        ),
        Row(
            "agents back after the controller listens again, p50",
            median(back),
            "s",
            how + f"Until the last agent was greeted; p90 {percentile(back, 0.9):.2f} s. They had nowhere else to go",
            Goal("<=", 1),
        ),
    ]


def compare(
    fleet: Crowds, controller: ControllerProcess, checked: dict[str, int], since: float
) -> tuple[int, int, float]:
    """How many reports were acknowledged since they were `checked` last, at `since`, how many of them the database
    lacks, and when they were checked now."""
    sleep(0.2)  # what the controller sent before it died may still be on its way
    now = time()
    reported = fleet.reported()  # before the database is read: another controller goes on to acknowledge
    store = open_store(controller.state)
    try:
        wanted = DenialFilter(limit=1_000_000, since_us=round((since - _SLACK_SECONDS) * 1e6))
        stored = store.denials(wanted)
    finally:
        store.close()
    found = {admin_pb2.DeniedConnection.FromString(denial.body).denial.process.exe for denial in stored}
    told = missing = 0
    for _, epoch, acknowledged, _ in reported:
        sequences = range(checked.get(epoch, 0) + 1, acknowledged + 1)
        told += len(sequences)
        missing += sum(program(epoch, sequence) not in found for sequence in sequences)
        checked[epoch] = acknowledged
    return told, missing, now


def _freeze_rows(stage: Stage) -> list[Row]:
    """SIGSTOP: the connections stay, and nobody answers."""
    fleet, controller = stage.fleet, stage.controller
    sessions = fleet.totals()["sessions"]
    os.kill(controller.pid, signal.SIGSTOP)
    began = monotonic()
    try:
        while (left := fleet.totals()["connected"]) and monotonic() < began + FROZEN_SECONDS:
            sleep(0.05)
        noticed = monotonic() - began
    finally:
        os.kill(controller.pid, signal.SIGCONT)
    back = fleet.connected_after(monotonic(), sessions)
    how = (
        f"SIGSTOP; until the last of {fleet.size} agents had given it up, by keepalive (3 s and 3 s) or heartbeat "
        f"({HEARTBEAT} s, three of them); {left} had not. After SIGCONT all were back in {back:.1f} s"
    )
    return [Row("a frozen controller given up by the last agent", noticed, "s", how, Goal("<=", 10))]
