"""One operator's heavy questions never take the threads of the others."""

from __future__ import annotations

import asyncio
import threading

import pytest
from segctl_controller.errors import LimitError
from segctl_controller.store.memory import MemoryStore
from segctl_controller.store_thread import StoreThread
from segctl_controller.turns import MOST_WAITING, Turns

from tests.controller_harness import eventually


async def test_who_asks_and_hangs_up_waits_for_himself_only() -> None:
    db = StoreThread(MemoryStore())
    turns, go_on = Turns(db), threading.Event()
    running: list[str] = []

    def heavy() -> None:
        running.append("vera")
        go_on.wait(10)

    async def ran(times: int) -> bool:
        return len(running) >= times

    async with asyncio.timeout(10):
        asked = [asyncio.create_task(turns.take("vera", heavy)) for _ in range(MOST_WAITING)]
        await eventually(lambda: ran(1))
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(LimitError, match="'vera' are under way"):
            await turns.take("vera", heavy)
        assert await turns.take("ed", lambda: "at once") == "at once"
        assert running == ["vera"]
        go_on.set()
        await eventually(lambda: ran(MOST_WAITING))
        await turns.take("vera", heavy)
    db.close()
