"""How many bytes an agent receives when a group that it knows changes by so many members."""

from __future__ import annotations

from bench.fleet.policies import bulk_policy, fleet_hosts
from bench.fleet.stage import Stage, connected, more_addresses, new_controller, quiet
from bench.rows import Goal, Row

SECONDS = 300.0
AGENTS, MEMBERS, QUICK_MEMBERS = 1_000, (1, 10, 100, 1_000), (1, 100)
HEADER = 250
"""Bytes of a change that are not its members: generation, digests (64 characters each), the name of the group."""


def measure(quick: bool) -> list[Row]:
    agents = 20 if quick else AGENTS
    with new_controller(fleet_hosts(agents)) as (controller, members), connected(controller, members) as stage:
        stage.operator.push(bulk_policy(1))
        quiet(controller.pid)
        return [_row(stage, changed) for changed in (QUICK_MEMBERS if quick else MEMBERS)]


def _row(stage: Stage, changed: int) -> Row:
    fleet, pid = stage.fleet, stage.controller.pid
    more = more_addresses(stage.members, changed)
    before = fleet.totals()
    fleet.expect()
    fleet.claim(more)
    fleet.expected()
    after = fleet.totals()
    fleet.expect()
    fleet.claim(dict.fromkeys(more, ()))
    fleet.expected()
    quiet(pid)
    received = (after["received"] - before["received"]) / fleet.size
    messages = (after["messages"] - before["messages"]) / fleet.size
    how = (
        f"a group of {fleet.size} hosts takes on {changed} addresses: bytes of the messages of one agent, "
        f"{messages:g} on average"
    )
    return Row(f"bytes of a change by {changed} members", received, "B", how, Goal("<=", 1.2 * 4 * changed + HEADER))
