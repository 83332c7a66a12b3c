"""The other controllers of this database: what they must know of us is told, what we must know of them is followed."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from segctl.errors import StateError
from segctl.logs import Event, about

from segctl_controller.clock import Clock
from segctl_controller.errors import StoppingError
from segctl_controller.feed import Feed
from segctl_controller.push import Publisher
from segctl_controller.registry import Registry
from segctl_controller.replicas.presence import Presences
from segctl_controller.replicas.relay import Relay
from segctl_controller.replicas.roster import Roster
from segctl_controller.replicas.tail import Tail
from segctl_controller.replicas.trials import Trials
from segctl_controller.store.notices import Notice, Topic
from segctl_controller.store.shared import Beat, SharedStore
from segctl_controller.store_thread import StoreThread

log = logging.getLogger(__name__)
OUT_OF_TOUCH = "this controller cannot reach its database, and does not know what the others change; go to another one"


class Peers:
    """`await claim()` first; `run()` until it is cancelled; `leave()` last."""

    def __init__(
        self,
        shared: SharedStore,
        registry: Registry,
        publisher: Publisher,
        db: StoreThread,
        clock: Clock,
        feed: Feed,
        endpoint: str,
    ) -> None:
        self._shared, self._registry, self._db, self._endpoint = shared, registry, db, endpoint
        self._roster = Roster(secrets.token_hex(8))
        self._blind = False
        self._losses = 0  # times that touch was lost
        self._news = Beat()
        self._gone: dict[str, int | None] = {}
        self._looked = asyncio.Event()
        self._presences = Presences(registry, shared, db, clock, self._roster)
        self._trials = Trials(publisher, shared, db, self._roster)
        self._tail = Tail(feed, db)
        self._relay = Relay(self._roster.own, registry, shared, db, self._presences)
        registry.fleet.on_standing = self._presences.changed
        registry.fleet.on_trial = self._trials.changed
        publisher.catch_up = self._trials.follow
        publisher.abandoned = self._trials.abandoned
        feed.begin = self._tail.begin
        registry.closed = self._closed
        registry.distant = self._relay.reach

    @property
    def serving(self) -> int:
        """Controllers, with this one."""
        return self._roster.size

    async def claim(self, fleet: str) -> None:
        """Raises StateError for a database of another fleet."""
        known = await self._db.call(self._shared.claim, fleet)
        if known != fleet:
            raise StateError(
                f"the database is that of the fleet {known}, and controller.json says {fleet}: name the right database "
                "there, or take the state directory from a controller of that fleet (segctl-controller join)"
            )

    async def follow(self, notice: Notice) -> None:
        """What others changed, after the hosts were followed. Raises StateError."""
        topics = notice.topics
        if Topic.QUESTIONS in topics:
            self._relay.heard()
        if Topic.HOSTS in topics:
            self._presences.enrolled(notice.hosts)
        if Topic.PRESENCE in topics:
            await self._presences.catch_up()
        if topics & (Topic.TRIALS | Topic.GENERATIONS):
            await self._trials.follow()

    def parts(self, reload: Callable[[], Awaitable[None]]) -> tuple[Coroutine[Any, Any, None], ...]:
        """`reload` reads everything that others may have changed."""
        self._roster.begin(time.monotonic())
        told = (self._presences.run(), self._trials.run(), self._tail.run(), self._relay.run())
        return (*told, self._beat(), self._react(reload))

    async def leave(self) -> None:
        """The others need not wait until they miss us. Raises StateError."""
        await self._db.call(self._shared.forget, self._roster.own)

    def _closed(self) -> str:
        """A controller that was frozen, or that lost its database, may not know who was removed meanwhile."""
        return OUT_OF_TOUCH if self._blind or not self._roster.in_touch(time.monotonic()) else ""

    async def _beat(self) -> None:
        """Nothing here waits for the store: a store that is slow must not look like one that is out of reach."""
        async for beat in self._shared.beats(self._roster.own, self._endpoint):
            now = time.monotonic()
            if not self._roster.in_touch(now):
                self._lost_touch()
            gone = self._roster.look(beat, now)
            for replica in gone:
                self._presences.forget(replica)
            if beat is not None:
                self._gone.update(gone)
                self._news = replace(beat, anew=beat.anew or self._news.anew)
                self._looked.set()

    async def _react(self, reload: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._looked.wait()
            self._looked.clear()
            beat, self._news = self._news, Beat()
            gone, self._gone = self._gone, {}
            try:
                if self._blind:
                    losses = self._losses
                    await reload()
                    self._blind = losses != self._losses
                await self._look(beat, gone)
            except StateError as error:
                text = "what other controllers know and do is looked at again in a moment: %s"
                log.error(text, error, extra=about(Event.STORE))

    async def _look(self, beat: Beat, gone: Mapping[str, int | None]) -> None:
        if beat.anew:
            self._presences.tell_all()
        for replica, count in gone.items():
            if count is not None:
                await self._db.call(self._shared.forget, replica, count)
        if beat.presence:
            await self._presences.catch_up(beat.presence)
        await self._trials.settle_abandoned()

    def _lost_touch(self) -> None:
        """Hosts keep their sessions, for all controllers may have lost the same database. But those on trial may hold
        what is undone by now: without a word from here they return, or hear it from another controller."""
        self._losses += 1
        if self._blind:
            return
        self._blind = True
        self._trials.lost_touch(OUT_OF_TOUCH)
        for host in self._trials.tried:
            self._registry.end(host, StoppingError(OUT_OF_TOUCH))
