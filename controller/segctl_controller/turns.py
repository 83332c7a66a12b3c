"""Heavy questions of operators, one at a time for each: whoever asks a lot waits for himself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from segctl_controller.errors import LimitError
from segctl_controller.store_thread import StoreThread

T = TypeVar("T")
MOST_WAITING = 4


class Turns:
    """`await turns.take(name, work)` runs `work` in a thread. A thread cannot be stopped, so a caller who hangs up
    keeps the turn until it is done; else asking and hanging up would fill every thread there is."""

    def __init__(self, db: StoreThread) -> None:
        self._db = db
        self._locks: dict[str, asyncio.Lock] = {}
        self._asked: Counter[str] = Counter()

    async def take(self, name: str, work: Callable[[], T]) -> T:
        """Raises LimitError when `name` has too many questions open."""
        if self._asked[name] >= MOST_WAITING:
            raise LimitError(f"{MOST_WAITING} checks or plans of {name!r} are under way; wait until they are done")
        self._asked[name] += 1
        return await self._db.whole(self._run(name, work))

    async def _run(self, name: str, work: Callable[[], T]) -> T:
        try:
            async with self._locks.setdefault(name, asyncio.Lock()):
                return await asyncio.to_thread(work)
        finally:
            self._asked[name] -= 1
