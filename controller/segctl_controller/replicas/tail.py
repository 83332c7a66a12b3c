"""Denials of hosts that are connected to other controllers, for those who follow denials here."""

from __future__ import annotations

import asyncio
import logging

from segctl.errors import StateError
from segctl.logs import Event, about

from segctl_controller.feed import MOST_WAITING, Feed
from segctl_controller.store.records import DenialFilter, DenialRecord
from segctl_controller.store_thread import StoreThread

EVERY_SECONDS = 0.5
log = logging.getLogger(__name__)


class Tail:
    """Reads what is new in the store while somebody follows, every half second: a notice for each report would have
    every controller read for all hosts. What is lost elsewhere is in the history, and not told meanwhile."""

    def __init__(self, feed: Feed, db: StoreThread) -> None:
        self._feed, self._db = feed, db
        self._after: int | None = None

    async def begin(self) -> None:
        """Raises StateError."""
        if self._after is None:
            self._after = await self._newest()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            if not self._feed.followers:
                self._after = None
                continue
            try:
                await self._read()
            except StateError as error:
                log.error("denials of other controllers' hosts come later: %s", error, extra=about(Event.STORE))

    async def _read(self) -> None:
        await self.begin()
        rows = await self._denials(DenialFilter(MOST_WAITING, after=self._after or 0))
        if rows:
            self._after = rows[-1].id
            self._feed.relay(rows)
            return
        newest = await self._newest()
        if newest < (self._after or 0):
            self._after = newest
            self._feed.rewind(newest)

    async def _newest(self) -> int:
        return max((row.id for row in await self._denials(DenialFilter(1))), default=0)

    async def _denials(self, wanted: DenialFilter) -> tuple[DenialRecord, ...]:
        return await self._db.call(self._db.store.denials, wanted)
