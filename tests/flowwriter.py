"""A process that stores flows like a controller does, until it is killed: `write`, with its end of a pipe."""

from __future__ import annotations

import asyncio
from multiprocessing.connection import Connection
from pathlib import Path

from segctl_controller.clock import Clock
from segctl_controller.flowstore.records import FlowLimits
from segctl_controller.flowstore.store import flow_store_on
from segctl_controller.flowstore.thread import FlowThread
from segctl_controller.store.conninfo import Conninfo

from tests.flowrows import NOW, KnownEnds, flow, key, report

HOSTS = 6
LIMITS = FlowLimits(rows=10**7)


def write(where: Path | Conninfo, begin: dict[str, int], acknowledged: Connection) -> None:
    """Each host tells reports from its number in `begin` on, one flow each, to the port of the report's number; what is
    stored is sent as (host, number)."""
    flows = FlowThread(flow_store_on(where, KnownEnds(), LIMITS), Clock(lambda: NOW))

    async def agent(host: str, number: int) -> None:
        while True:
            await flows.add(report(number, flow(key(host, port=number)), host=host))
            acknowledged.send((host, number))
            number += 1

    async def all_agents() -> None:
        await asyncio.gather(*(agent(host, number) for host, number in begin.items()))

    asyncio.run(all_agents())
