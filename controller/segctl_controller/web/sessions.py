"""Who is signed in: sessions in this process's memory, found by the hash of the cookie's secret.

A session holds the bearer that was shown at the sign-in, and nothing about rights: those are read at each call. It
ends when it is idle, when it is old, when its owner signs out, or with the process.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

IDLE, LONGEST = 1800.0, 12 * 3600.0
"""Seconds without a request or an open stream, and of a session whatever it does."""
MOST, MOST_OF_ONE = 2000, 16
"""Sessions of all, and of one identity; the one that was used least lately goes."""


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
    """`token` is the bearer for the Admin service; empty once the session has ended. `identity` is as in Principal."""

    identity: str
    name: str
    token: str = field(repr=False)
    began: float = 0.0
    used: float = 0.0
    renewal: Renewal | None = field(default=None, repr=False)
    renewing: asyncio.Task[None] | None = field(default=None, repr=False)

    def end(self) -> None:
        """Streams that are open see it at their next look."""
        self.token, self.renewal = "", None


class Sessions:
    """`now` is monotonic, in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._by_hash: OrderedDict[bytes, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_hash)

    def begin(self, session: Session) -> str:
        """The secret for the cookie: 256 bits."""
        self._drop_ended()
        own = [key for key, other in self._by_hash.items() if other.identity == session.identity]
        for key in own[: max(0, len(own) - MOST_OF_ONE + 1)]:
            self._remove(key)
        while len(self._by_hash) >= MOST:
            self._remove(next(iter(self._by_hash)))
        secret = secrets.token_urlsafe(32)
        session.began = session.used = self._now()
        self._by_hash[_hashed(secret)] = session
        return secret

    def find(self, secret: str) -> Session | None:
        """The session of this secret while it lasts; asking is using it."""
        key = _hashed(secret)
        session = self._by_hash.get(key)
        if session is None:
            return None
        if self._over(session):
            self._remove(key)
            return None
        self.touch(session)
        self._by_hash.move_to_end(key)
        return session

    def touch(self, session: Session) -> bool:
        """It is in use. False, and it has ended, when it is too old to be."""
        if self._over(session):
            session.end()
            return False
        session.used = self._now()
        return True

    def end(self, secret: str) -> Session | None:
        """The session that was ended by this."""
        return self._remove(_hashed(secret))

    def _over(self, session: Session) -> bool:
        now = self._now()
        return not session.token or now - session.used > IDLE or now - session.began > LONGEST

    def _drop_ended(self) -> None:
        for key in [key for key, session in self._by_hash.items() if self._over(session)]:
            self._remove(key)

    def _remove(self, key: bytes) -> Session | None:
        session = self._by_hash.pop(key, None)
        if session is not None:
            session.end()
        return session


def _hashed(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
