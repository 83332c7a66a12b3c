"""The live feed of denials: every follower has a bounded queue of its own and learns how much it missed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager

from segctl_controller.store.records import DenialRecord

MOST_WAITING = 1000
MOST_FOLLOWERS = 100
REMEMBERED = 4096
"""Denials of hosts that are connected here, which are found in the store too."""


class Follower:
    """Takes denials without ever blocking who publishes; the oldest go first and are counted."""

    def __init__(self, host: str, workload: str) -> None:
        self._host = host
        self._workload = workload
        self._queue: deque[DenialRecord] = deque()
        self._lost = 0
        self._wake = asyncio.Event()
        self.after = 0
        """The newest id in the history that was shown before."""

    def put(self, denial: DenialRecord) -> None:
        if self._host not in ("", denial.host) or self._workload not in ("", denial.workload):
            return
        if len(self._queue) >= MOST_WAITING:
            self._lost += self._queue.popleft().count
        self._queue.append(denial)
        self._wake.set()

    def lose(self, host: str, count: int) -> None:
        """Denials that the host's agent counted and could not describe."""
        if self._host in ("", host) and count:
            self._lost += count
            self._wake.set()

    async def take(self) -> tuple[tuple[DenialRecord, ...], int]:
        """Wait for something, then everything that waits: denials, and how many were lost before them."""
        await self._wake.wait()
        return self.take_waiting()

    def take_waiting(self) -> tuple[tuple[DenialRecord, ...], int]:
        """Like `take`, of what waits already: perhaps nothing."""
        self._wake.clear()
        taken, lost = tuple(self._queue), self._lost
        self._queue.clear()
        self._lost = 0
        return taken, lost


async def _nothing() -> None: ...


class Feed:
    def __init__(self) -> None:
        self._followers: set[Follower] = set()
        self._own: deque[tuple[int, str]] = deque(maxlen=REMEMBERED)
        self.batches = 0
        self.begin: Callable[[], Awaitable[None]] = _nothing
        """Before somebody follows: what other controllers store from here on is to be relayed."""

    @property
    def followers(self) -> int:
        return len(self._followers)

    @property
    def full(self) -> bool:
        return len(self._followers) >= MOST_FOLLOWERS

    @contextmanager
    def follow(self, host: str, workload: str) -> Iterator[Follower]:
        follower = Follower(host, workload)
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)

    def publish(self, host: str, denials: tuple[DenialRecord, ...], lost: int) -> None:
        """Of a host that is connected here, as they were just stored."""
        self.batches += 1
        for follower in self._followers:
            follower.lose(host, lost)
            for denial in denials:
                follower.put(denial)
        self._own.extend((denial.id, denial.host) for denial in denials)

    def relay(self, denials: Iterable[DenialRecord]) -> None:
        """What was found in the store: also what was published here, and what followers saw in the history."""
        own = set(self._own)
        for denial in denials:
            for follower in self._followers:
                if (denial.id, denial.host) not in own and denial.id > follower.after:
                    follower.put(denial)

    def rewind(self, newest: int) -> None:
        """A host was removed: ids above `newest` are given again."""
        for follower in self._followers:
            follower.after = min(follower.after, newest)
        self._own.clear()
