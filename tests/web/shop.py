"""The lab's shop as its real agents recorded it (tests/shoptraffic.py), in a controller with the web UI."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from lab.recording import SHOP_TRAFFIC, read_recording
from tests.shoptraffic import shop_traffic
from tests.web.fleet import WebFleet, live

SHOP = read_recording(SHOP_TRAFFIC)


async def record(fleet: WebFleet, living: AsyncExitStack) -> None:
    """All that was recorded, told by hosts that stay connected."""
    traffic = await living.enter_async_context(shop_traffic(fleet.lab, SHOP))
    for name, session in traffic.sessions.items():
        fleet.agents[name] = session.agent
        living.callback(asyncio.create_task(live(session), name=f"agent {name}").cancel)
