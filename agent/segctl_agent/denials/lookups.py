"""Which processes to look up when: at once while there is time for it, then in batches, which cost less each. Pure.

A lookup that waits is still good for most of a second: the socket of a denied TCP connection stays until the SYN is
sent again (ADR 7).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from segctl_agent.denials.coalesce import Key
from segctl_agent.denials.packet import Packet
from segctl_agent.denials.values import Attribution, LoggedPacket, ProcessInfo

SHARE: Final = 0.2
"""Of one core, over time."""
BURST_SECONDS: Final = 0.2
PATIENCE_SECONDS: Final = 0.7
BATCH: Final = 128
MAX_WAITING: Final = 4096
BUSY = Attribution(ProcessInfo(), "too many denials at once to look up every process")


class Lookup(NamedTuple):
    """`told`: the packet's denial waits for the answer, and is reported with it."""

    key: Key
    logged: LoggedPacket
    packet: Packet
    told: bool
    since: float


class Lookups:
    """`attribute` is Attributor.attribute_many. `clock`: seconds, monotonic. `cost`: seconds of CPU, so that a machine
    that is busy otherwise does not make lookups look dear."""

    def __init__(
        self,
        attribute: Callable[[Sequence[tuple[LoggedPacket, Packet]]], list[Attribution]],
        clock: Callable[[], float],
        cost: Callable[[], float],
    ) -> None:
        self._attribute = attribute
        self._clock = clock
        self._cost = cost
        self._waiting: deque[Lookup] = deque()
        self._allowance = BURST_SECONDS
        self._at = clock()

    def add(self, key: Key, logged: LoggedPacket, packet: Packet, *, told: bool, now: float) -> None:
        self._waiting.append(Lookup(key, logged, packet, told, now))

    def ready(self, *, final: bool = False) -> list[tuple[Lookup, Attribution]]:
        """Those that can be answered now; with `final` all, looked up or not."""
        out: list[tuple[Lookup, Attribution]] = []
        while self._waiting and self._earn() > 0:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            before = self._cost()
            found = self._attribute([(lookup.logged, lookup.packet) for lookup in batch])
            self._allowance -= self._cost() - before
            out += zip(batch, found, strict=True)
        late = self._clock() - PATIENCE_SECONDS
        while self._waiting and (final or len(self._waiting) > MAX_WAITING or self._waiting[0].since < late):
            out.append((self._waiting.popleft(), BUSY))
        return out

    def next_due(self) -> float | None:
        """When to call `ready` again; None when nothing waits."""
        return self._at + max(0.0, -self._allowance) / SHARE if self._waiting else None

    def _earn(self) -> float:
        now = self._clock()
        self._allowance = min(BURST_SECONDS, self._allowance + (now - self._at) * SHARE)
        self._at = now
        return self._allowance
