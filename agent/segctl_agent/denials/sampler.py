"""When the kernel's dynamic sets are dumped, in a thread: a dump of 65,000 elements takes a third of a second."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Final, Protocol

from segctl.errors import KernelError

from segctl_agent.denials.counts import Direction, Element, Sets, Version, parse_elements
from segctl_agent.nft.attributes import string
from segctl_agent.nft.messages import GETSETELEM
from segctl_agent.nft.netlink import DumpInterruptedError, Netlink
from segctl_agent.nft.ruleset import TABLE

log = logging.getLogger(__name__)

BUSY_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 10.0
GAP_SECONDS: Final = 0.25
"""Between two dumps at least: the log of a packet that one counted must have come before the next."""
SHARE: Final = 0.1
"""Of one core at most, while there are denials."""
_DIRECTIONS: tuple[Direction, ...] = ("in", "out")
_VERSIONS: tuple[Version, ...] = (4, 6)
_ATTEMPTS = 5


class SetSource(Protocol):
    """One dump of the sets at a time. Raises KernelError."""

    def read(self) -> Sets: ...

    def close(self) -> None: ...


class DeniedSets:
    """The sets denied_in4, denied_in6, denied_out4 and denied_out6 of this network namespace, by netlink."""

    def __init__(self, table: str = TABLE) -> None:
        self._table = table
        self._netlink = Netlink(buffer=1 << 16)

    def close(self) -> None:
        self._netlink.close()

    def read(self) -> Sets:
        return {(d, v): self._set(f"denied_{d}{v}", v) for d in _DIRECTIONS for v in _VERSIONS}

    def _set(self, name: str, version: Version) -> list[Element]:
        for _ in range(_ATTEMPTS):
            with suppress(DumpInterruptedError):
                try:
                    messages = self._netlink.dump(GETSETELEM, string(1, self._table) + string(2, name))
                except FileNotFoundError:
                    return []
                return parse_elements(messages, version)
        raise KernelError(f"set {name} changes faster than it can be read: find out who changes table {self._table}")


class Sampler:
    """Dumps every second while there are denials and every ten while there are none, in a thread of its own.

    `on_sets` is called in the loop, and tells whether there are denials. A dump that fails is told in the log once, and
    `on_sets` waits for the next.
    """

    def __init__(
        self, source: SetSource, on_sets: Callable[[Sets], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._on_sets = on_sets
        self._clock = clock
        self._threads = ThreadPoolExecutor(1, "denied-sets")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._running: Future[Sets] | None = None
        self._waiting: list[Callable[[], None]] = []
        self._began = self._ended = float("-inf")
        self._failed = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """The first dump, which shows where the counters stand, is done when this returns."""
        self._loop = loop
        self._began = self._clock()
        first: Future[Sets] = self._threads.submit(self._source.read)
        wait((first,))
        self._dumped(first, [])

    def busy(self) -> None:
        """There are denials: dump within a second."""
        self._arm(self._began + BUSY_SECONDS - self._clock())

    def soon(self, then: Callable[[], None]) -> None:
        """Call `then` after `on_sets` had a dump that begins after now."""
        self._waiting.append(then)
        self._arm(0.0)

    def close(self) -> Sets:
        """Stop, and dump a last time."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop = None
        self._threads.shutdown(wait=True)
        try:
            return self._source.read()
        except KernelError as error:
            log.warning("denials that were only counted are not told: %s", error)
            return {}
        finally:
            self._source.close()

    def _arm(self, delay: float) -> None:
        """At most one dump at a time, and an earlier timer stands."""
        if self._loop is None or self._running is not None:
            return
        rest = max(GAP_SECONDS, (self._ended - self._began) / SHARE) if self._ended > float("-inf") else 0.0
        at = self._loop.time() + max(delay, self._ended + rest - self._clock(), 0.0)
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._dump)

    def _dump(self) -> None:
        if self._loop is None:
            return
        self._timer = None
        self._began = self._clock()
        asked, self._waiting = self._waiting, []
        loop = self._loop
        self._running = self._threads.submit(self._source.read)
        self._running.add_done_callback(lambda done: loop.call_soon_threadsafe(self._dumped, done, asked))

    def _dumped(self, done: Future[Sets], asked: list[Callable[[], None]]) -> None:
        self._running = None
        self._ended = self._clock()
        if self._loop is None:
            return
        busy = False
        try:
            sets = done.result()
        except KernelError as error:
            if not self._failed:
                log.warning("denials are logged, but not counted to the last packet: %s", error)
            self._failed = True
        else:
            self._failed = False
            busy = self._on_sets(sets)
            for then in asked:
                then()
        self._arm(BUSY_SECONDS if busy or self._waiting else IDLE_SECONDS)
