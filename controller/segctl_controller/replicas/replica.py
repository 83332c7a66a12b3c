"""This controller among the processes that use its database.

    notices ─▶ Membership (hosts) ─▶ Presences (who has which host) ─▶ Trials (pushes)
    beats ───▶ Roster (who serves) ─▶ the hosts of those that are gone, and their trial

Where a store has one controller at a time there are no Peers: what the command line changes beside it is followed.
"""

from __future__ import annotations

import asyncio
import logging

from segctl.errors import StateError
from segctl.logs import Event, about

from segctl_controller.registry import Registry
from segctl_controller.replicas.membership import Membership
from segctl_controller.replicas.peers import Peers
from segctl_controller.store.notices import EVERYTHING, Notice, Topic
from segctl_controller.store_thread import StoreThread

AGAIN_SECONDS = 0.5
log = logging.getLogger(__name__)


class Replica:
    """`await attach()`, then the fleet is loaded, then `run()` until it is cancelled, then `leave()`."""

    def __init__(self, registry: Registry, db: StoreThread, peers: Peers | None) -> None:
        self.peers = peers
        self._membership = Membership(registry, db)
        self._heard = db.store.notices().listen()

    async def attach(self, fleet: str) -> None:
        """Nothing that others change after that is missed. Raises StateError for a database of another fleet."""
        await anext(self._heard)
        if self.peers is not None:
            await self.peers.claim(fleet)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for part in self.peers.parts(self._reload) if self.peers is not None else ():
                group.create_task(part)
            await self._follow(Notice(EVERYTHING.topics & ~Topic.HOSTS))  # those were loaded
            async for notice in self._heard:
                await self._follow(notice)

    async def leave(self) -> None:
        """Safe also after `attach` failed."""
        await self._heard.aclose()
        if self.peers is None:
            return
        try:
            await self.peers.leave()
        except StateError as error:
            log.error("other controllers will notice by themselves that this one ended: %s", error)

    async def _follow(self, notice: Notice) -> None:
        """Until it succeeds: a change that is passed over would never be noticed."""
        while True:
            try:
                await self._read(notice)
            except StateError as error:
                log.error("what others changed is read again in a moment: %s", error, extra=about(Event.STORE))
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                return

    async def _reload(self) -> None:
        """Raises StateError."""
        await self._read(EVERYTHING)

    async def _read(self, notice: Notice) -> None:
        if Topic.HOSTS in notice.topics:
            await self._membership.follow(notice.hosts)
        if self.peers is not None:
            await self.peers.follow(notice)
