"""What wakes the one task that writes a stream. asyncio.Event, for many tasks, takes a kilobyte of each stream."""

from __future__ import annotations

import asyncio


class Wake:
    """`set` lets the task go on that waits, or the next one that does; once for many."""

    __slots__ = ("_set", "_waiter")

    def __init__(self) -> None:
        self._set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        self._set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Returns when it was set since the last time."""
        if not self._set:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._set = False
