"""Who is signed in: sessions in the store, found by the hash of the cookie's secret, so that every controller of the
database knows them; and for some seconds in memory, so that not each request asks the database.

A session holds the bearer that was shown at the sign-in, and nothing about rights: those are read at each call. It
ends when it is idle, when it is old, or when its owner signs out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from segctl_controller.clock import Clock
from segctl_controller.enrolment import FailureLimit
from segctl_controller.store.records import WebSessionRecord
from segctl_controller.store_thread import StoreThread
from segctl_controller.web.sealed import Seal

IDLE, LONGEST = 1800, 12 * 3600
"""Seconds without a request or an open stream, and of a session whatever it does."""
FRESH = 2.0
"""Seconds for which the database is not asked again: so late does a controller hear of a sign-out at another one."""
NOTED_US = 60_000_000
"""Use is stored so often at most."""
RENEWING_US = 30_000_000
"""For so long nobody else renews what somebody began to renew: longer than the provider may take."""
KNOWN = 2000
"""In memory; the one that was used least lately is read again."""
FAILURES = 60
"""Cookies a minute and source address that no session has, before they are refused as too many. They are looked for all
the same: others have good sessions at that address."""
BYTES = 32
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Renewal:
    """How the ID token of a sign-in is renewed (OpenID Connect Core 1.0, 12), from when on in Unix microseconds, and
    how that right is given back (RFC 7009; empty: the provider does not say)."""

    client_id: str
    token_endpoint: str
    revocation_endpoint: str
    refresh_token: str = field(repr=False)
    due_us: int = 0


@dataclass(slots=True)
class Session:
    """`token` is the bearer for the Admin service; empty once the session has ended. `identity` is as in Principal.
    `version` is that of the row, `noted_us` the use that is stored, and `looked` when the row was read last."""

    identity: str
    name: str
    token: str = field(repr=False)
    renewal: Renewal | None = field(default=None, repr=False)
    began_us: int = 0
    used_us: int = 0
    noted_us: int = 0
    version: int = 1
    looked: float = 0.0
    seal: Seal | None = field(default=None, repr=False)
    renewing: asyncio.Task[None] | None = field(default=None, repr=False)

    def end(self) -> None:
        """Streams that are open see it at their next look."""
        self.token, self.renewal = "", None

    def over(self, now_us: int) -> bool:
        idle, age = now_us - self.used_us, now_us - self.began_us
        return not self.token or idle > IDLE * 1_000_000 or age > LONGEST * 1_000_000

    def adopt(self, row: WebSessionRecord) -> None:
        """What a controller stored later. Raises ValueError for what cannot be read."""
        self.used_us = max(self.used_us, row.used_us)
        if row.version > self.version and self.seal is not None:
            newer = _opened(self.seal, row)
            self.token, self.renewal, self.version = newer.token, newer.renewal, row.version


class Sessions:
    """`now` is monotonic, in seconds. Every method may raise StateError, when the store cannot be asked."""

    def __init__(self, db: StoreThread, clock: Clock, now: Callable[[], float] = time.monotonic) -> None:
        self._db, self._store, self._clock, self._now = db, db.store, clock, now
        self._known: OrderedDict[bytes, Session] = OrderedDict()
        self._failures = FailureLimit(now, FAILURES)

    async def begin(self, session: Session) -> str:
        """The secret for the cookie: 256 bits."""
        secret, now_us = secrets.token_urlsafe(BYTES), self._clock.now_us()
        session.seal = Seal(secret)
        session.began_us = session.used_us = session.noted_us = now_us
        row = WebSessionRecord(session.seal.id, session.identity, now_us, now_us, _sealed(session))
        await self._db.call(self._store.add_web_session, row, now_us - IDLE * 1_000_000, now_us - LONGEST * 1_000_000)
        self._know(session)
        return secret

    async def find(self, secret: str, peer: str) -> Session | None:
        """The session of this secret while it lasts; asking is using it. Raises LimitError for a peer that showed too
        many cookies of nobody."""
        if not secret:
            return None
        seal = Seal(secret)
        session = self._known.get(seal.id)
        if session is not None:
            self._known.move_to_end(seal.id)
        else:
            row = await self._db.call(self._store.web_session, seal.id)
            session = self._read(seal, row) if row is not None else None
            if session is None:
                self._failures.admit(peer)
                self._failures.failed(peer)
                return None
            self._know(session)
        return session if await self.touch(session) else None

    async def touch(self, session: Session) -> bool:
        """It is in use. False, and it has ended, when it is too old to be, or was ended elsewhere."""
        if session.seal is None:
            return False
        if session.token and self._now() - session.looked >= FRESH:
            await self.look(session)
        now_us = self._clock.now_us()
        if session.over(now_us):
            self._known.pop(session.seal.id, None)
            session.end()
            return False
        session.used_us = now_us
        if now_us - session.noted_us >= NOTED_US:
            session.noted_us = now_us
            self._db.post(self._store.use_web_session, session.seal.id, now_us)
        return True

    async def look(self, session: Session) -> None:
        """Take over what is stored; a session that is not, has ended."""
        if session.seal is None:
            return
        began = self._now()
        row = await self._db.call(self._store.web_session, session.seal.id)
        try:
            if row is not None and session.token:
                session.adopt(row)
                session.looked = began
                return
        except ValueError as error:
            log.warning("a session of %s has ended: %s", session.name, error)
        self._forget(session)

    async def end(self, secret: str) -> Session | None:
        """The session that was ended by this, with all that it had at last."""
        if not secret:
            return None
        seal = Seal(secret)
        row = await self._db.call(self._store.end_web_session, seal.id)
        known = self._known.get(seal.id)
        if known is not None:
            self._forget(known)
        found = self._read(seal, row) if row is not None else None
        return found if found is not None and not found.over(self._clock.now_us()) else None

    async def lease(self, session: Session) -> bool:
        """Whether this controller may renew what the session holds, and nobody else for a while."""
        now_us, seal = self._clock.now_us(), session.seal
        if seal is None:
            return False
        until_us = now_us + RENEWING_US
        return await self._db.call(self._store.lease_web_session, seal.id, session.version, now_us, until_us)

    async def keep(self, session: Session, token: str, renewal: Renewal) -> bool:
        """What was renewed. False, and nothing is stored, for a session that was ended meanwhile."""
        if session.seal is None or not session.token:
            return False
        fresh = Session(session.identity, session.name, token, renewal, seal=session.seal)
        sealed, version = _sealed(fresh), session.version
        if not await self._db.call(self._store.keep_web_session, session.seal.id, version, sealed):
            self._forget(session)
            return False
        session.token, session.renewal, session.version = token, renewal, version + 1
        return True

    async def drop(self, session: Session) -> None:
        """The provider does not want it to go on."""
        if session.seal is not None:
            self._forget(session)
            await self._db.call(self._store.end_web_session, session.seal.id)

    def _know(self, session: Session) -> None:
        if session.seal is None:
            return
        now_us = self._clock.now_us()
        for other in [other for other in self._known.values() if other.over(now_us)]:
            self._forget(other)
        session.looked = self._now()
        self._known[session.seal.id] = session
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)

    def _forget(self, session: Session) -> None:
        session.end()
        if session.seal is not None:
            self._known.pop(session.seal.id, None)

    def _read(self, seal: Seal, row: WebSessionRecord) -> Session | None:
        try:
            return _opened(seal, row)
        except ValueError as error:
            log.warning("a session cannot be read, and counts as none: %s", error)
            return None


def _sealed(session: Session) -> bytes:
    assert session.seal is not None
    held = {"identity": session.identity, "name": session.name, "token": session.token}
    renewal = asdict(session.renewal) if session.renewal is not None else None
    return session.seal.close(json.dumps({**held, "renewal": renewal}).encode())


def _opened(seal: Seal, row: WebSessionRecord) -> Session:
    """Raises ValueError."""
    try:
        held = json.loads(seal.open(row.sealed))
        renewal = Renewal(**held["renewal"]) if held["renewal"] is not None else None
        identity, name, token = held["identity"], held["name"], held["token"]
    except (KeyError, TypeError) as error:
        raise ValueError("another version of segctl-controller stored it") from error
    times = (row.began_us, row.used_us, row.used_us)
    return Session(identity, name, token, renewal, *times, row.version, seal=seal)
