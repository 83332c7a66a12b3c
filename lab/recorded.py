"""The demo's second fleet: a controller that is told the recorded shop (lab/recording.py) by agents of its ten servers,
over mTLS. Its clock is two weeks behind when they are enrolled, and one when the week of the recording is over.

`python -m lab.recorded DIRECTORY` says `ready` on standard output then. Each line on its standard input is the path of
a policy that is in force, and lets the second week go by: the same one without its attack, as agents tell it under that
policy.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from segctl.cli.sources import load_sources
from segctl.model.policy import Policy, Tags
from segctl.policy.parse import parse_policy
from segctl.proto.v1 import agent_pb2
from segctl_controller.clock import Clock
from segctl_controller.flowstore.claiming import Claims
from segctl_controller.flowstore.records import DAY_US

from lab.recording import SHOP_TRAFFIC, Recording, read_recording
from tests.controller_harness import ControllerLab, FakeAgent, running_controller
from tests.shopdependencies import ATTACK, ATTACKER
from tests.shoptraffic import ShopTraffic, batches, shop_traffic

READY = "ready"
CERTIFICATE_DAYS = 60
"""They hold over the weeks in which nobody renews them."""
FOR_EVER = 10**6
"""Seconds."""


@dataclass(slots=True)
class LateClock:
    """Behind the machine's by so many microseconds."""

    behind_us: int

    def now_us(self) -> int:
        return time.time_ns() // 1000 - self.behind_us


def without_attack(recording: Recording) -> Recording:
    """What the attacker did, and the server that it had broken into."""
    rows = (
        row
        for row in recording.flows
        if recording.holder(row.remote) != ATTACKER and not any(one.has(recording, row) for one in ATTACK)
    )
    return replace(recording, flows=tuple(rows))


def as_told_under(policy: Policy, recording: Recording, host: str, since_us: int) -> list[agent_pb2.FlowBatch]:
    """With the workloads that the policy declares."""
    claims = Claims(policy)
    tags = Tags.of(next(one.tags for one in recording.hosts if one.name == host))
    told = batches(recording, host, since_us)
    for batch in told:
        names = [claims.of(str(tags), "host", process) for process in batch.processes]
        del batch.workloads[:], batch.workload[:]
        batch.workloads.extend(sorted(set(names)))
        batch.workload.extend(list(batch.workloads).index(names[at]) for at in batch.process)
    return told


@dataclass(frozen=True, slots=True)
class RecordedFleet:
    lab: ControllerLab
    clock: LateClock
    shop: ShopTraffic

    async def second_week(self, policy: Policy) -> None:
        quiet, began = without_attack(self.shop.recording), self.clock.now_us()
        self.clock.behind_us = 0
        for name, session in self.shop.sessions.items():
            await tell(session.agent, as_told_under(policy, quiet, name, began), "second week")


async def tell(agent: FakeAgent, told: list[agent_pb2.FlowBatch], epoch: str) -> None:
    async with agent.reports() as call:
        for number, batch in enumerate(told, 1):
            await call.write(agent_pb2.ReportBatch(epoch=epoch, sequence=number, flows=batch))
        while (await call.read()).sequence < len(told):
            pass


@asynccontextmanager
async def recorded_fleet(directory: Path) -> AsyncIterator[RecordedFleet]:
    """Enrolled two weeks ago, and observed for the first of them. Its agents prove every policy that comes."""
    recording = read_recording(SHOP_TRAFFIC)
    week = recording.days * DAY_US
    clock = LateClock(2 * week)

    def a_week_later() -> None:
        clock.behind_us = week

    async with AsyncExitStack() as stack:
        made = running_controller(directory, Clock(clock.now_us), host_certificate_days=CERTIFICATE_DAYS)
        lab = await stack.enter_async_context(made)
        until = clock.now_us() + week
        shop = await stack.enter_async_context(shop_traffic(lab, recording, until, a_week_later))
        for session in shop.sessions.values():
            session.patience = FOR_EVER
            await stack.enter_async_context(session.proving())
        yield RecordedFleet(lab, clock, shop)


def policy_in(path: Path) -> Policy:
    parsed = parse_policy(load_sources([str(path)]))
    assert parsed.policy is not None, parsed.findings
    return parsed.policy


async def run(directory: Path) -> None:
    async with recorded_fleet(directory) as fleet:
        print(READY, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            await fleet.second_week(policy_in(Path(line.strip())))
            print(READY, flush=True)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
