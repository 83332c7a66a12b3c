"""Which controller has each host, and how the host stands there.

Here each change of a host that is connected here is gathered and stored with those of others, and there it is read and
put in its place. A session that begins claims its host: the claim that was stored last counts, and whoever has an older
session of that host ends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from dataclasses import replace

from segctl.errors import StateError
from segctl.logs import Event, about

from segctl_controller.clock import Clock
from segctl_controller.errors import ReplacedError
from segctl_controller.registry import LiveSession, Registry
from segctl_controller.replicas.roster import Roster
from segctl_controller.replicas.standings import Told, standing_of, standing_text
from segctl_controller.store.shared import Presence, SharedStore
from segctl_controller.store_thread import StoreThread

GATHER_SECONDS = 0.01
"""Between the first change and the transaction that stores it with those that came meanwhile."""
AGAIN_SECONDS = 0.5
MOST_AT_ONCE = 1000
log = logging.getLogger(__name__)


class Presences:
    """On the event loop. `run` stores, `catch_up` reads; `forget` is for controllers that are gone."""

    def __init__(self, registry: Registry, shared: SharedStore, db: StoreThread, clock: Clock, roster: Roster) -> None:
        self._registry, self._shared, self._db, self._clock, self._roster = registry, shared, db, clock, roster
        self._fleet = registry.fleet
        self._seen = 0
        self._changed: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._claimed: dict[str, tuple[LiveSession, int]] = {}  # hosts that are ours, and the version of our claim
        self._rows: dict[str, Presence] = {}  # of hosts that are the others'
        self._reading = asyncio.Lock()

    def changed(self, host: str) -> None:
        """The standing of a host that is connected here, or was."""
        self._changed[host] = None
        self._wake.set()

    def tell_all(self) -> None:
        """Our rows may be gone."""
        for host in self._registry.sessions:
            self.changed(host)

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(GATHER_SECONDS)
            while self._changed:
                hosts = [*self._changed][:MOST_AT_ONCE]
                for host in hosts:
                    del self._changed[host]
                try:
                    await self._store(hosts)
                except StateError as error:
                    text = "other controllers do not hear of hosts for now: %s"
                    log.error(text, error, extra=about(Event.STORE))
                    self._changed.update(dict.fromkeys(hosts))
                    await asyncio.sleep(AGAIN_SECONDS)

    async def _store(self, hosts: Iterable[str]) -> None:
        claims, updates, sessions = {}, {}, {}
        for host in hosts:
            session = self._registry.session(host)
            if host not in self._fleet.hosts:
                self._claimed.pop(host, None)
                continue
            known = self._claimed.get(host)
            if session is not None and (known is None or known[0] is not session):
                claims[host], sessions[host] = self._text(host, session), session
            elif known is not None:
                updates[host] = self._text(host, known[0])
        if not claims and not updates:
            return
        version = await self._db.call(self._shared.tell, self._roster.own, claims, updates)
        for host, session in sessions.items():
            self._claimed[host] = (session, version)
            later = self._rows.pop(host, None)
            if later is not None and later.version > version:
                self._apply(later)  # it was read before we heard that our claim was stored
                self._fleet.notify()

    def _text(self, host: str, session: LiveSession) -> str:
        return standing_text(Told(self._fleet.standing(host), session.origin, self._fleet.hosts[host].enrolled_us))

    async def catch_up(self, to: int = 0) -> None:
        """`to`: the newest version that there is at least, ours too. Raises StateError."""
        async with self._reading:
            if to and self._seen >= to:
                return
            rows = await self._db.read(self._shared.presences, self._seen, self._roster.own)
            self._seen = max([self._seen, to, *(row.version for row in rows)])
            for row in rows:
                self._apply(row)
        if rows:
            self._fleet.notify()

    def place(self, host: str) -> tuple[str, str] | None:
        """The controller that has the host, where that is another one, and its endpoint."""
        row = self._rows.get(host)
        if row is None or not self._fleet.standing(host).elsewhere:
            return None
        return row.replica, self._roster.endpoint(row.replica)

    def enrolled(self, hosts: Collection[str] | None) -> None:
        """These, None: all, may be new here, while others spoke of them already."""
        for host in self._rows.keys() if hosts is None else self._rows.keys() & hosts:
            if not self._fleet.standing(host).elsewhere:
                self._apply(self._rows[host])
                self._fleet.notify()

    def _apply(self, row: Presence) -> None:
        host, session = row.host, self._registry.session(row.host)
        try:
            told = standing_of(host, row.standing)
        except StateError as error:
            log.error("%s", error, extra=about(Event.STORE))
            return
        record = self._fleet.hosts.get(host)
        if record is None or record.enrolled_us != told.enrolled_us:
            self._rows[host] = row  # of a machine that is not known here yet, or no more
            return
        if session is not None:
            known = self._claimed.get(host)
            if known is None or known[0] is not session:
                self._rows[host] = row  # our claim is on its way
                return
            if known[1] > row.version or not told.standing.connected:
                return
            newer = ReplacedError(
                f"a newer session of host {host}, with another controller, took the place of this one"
            )
            self._registry.displace(host, told.origin, newer)
        self._claimed.pop(host, None)
        self._rows[host] = row
        self._registry.elsewhere(host)
        before = self._fleet.standing(host)
        if before.connected and not told.standing.connected:
            self._left(host)
        standing = told.standing
        standing.contest = before.contest
        standing.elsewhere = self._roster.endpoint(row.replica) if standing.connected else ""
        self._fleet.standings[host] = standing

    def forget(self, replica: str) -> None:
        """Its hosts are offline until they come to another one."""
        gone = [host for host, row in self._rows.items() if row.replica == replica]
        for host in gone:
            del self._rows[host]
            if host in self._fleet.hosts and self._registry.session(host) is None:
                standing = self._fleet.standing(host)
                standing.connected, standing.elsewhere = False, ""
                self._left(host)
        if gone:
            self._fleet.notify()

    def _left(self, host: str) -> None:
        self._fleet.hosts[host] = replace(self._fleet.hosts[host], last_seen_us=self._clock.now_us())
