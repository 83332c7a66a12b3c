"""How many denials nobody described: what the kernel's counters say, less what was received. Pure.

Every denied packet passes a counter in the table; the log rule before it is limited, and the way to the agent may
overflow. The counters are read first and the socket is drained after that, so what is counted is received or lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

CounterKey = tuple[Literal["in", "out"], str]
"""Direction and workload: the counter of one end chain."""


class LostCount:
    """Sums up, over all counters, since the first `compare`."""

    def __init__(self) -> None:
        self._counters: Mapping[CounterKey, int] | None = None
        self._counted = 0
        self._accounted = 0
        self._missing_before = 0

    def received(self, packets: int) -> None:
        """Packets that came through, or whose loss was told otherwise."""
        self._accounted += packets

    def compare(self, counters: Mapping[CounterKey, int], pending: int = 0) -> int:
        """Packets newly known as lost. `pending` are known and told later. The first call only notes where the counters
        stand. A counter that fell back (its table was made anew) starts from zero.

        Only what was missing at two calls in a row counts as lost: a packet may still be in the kernel's queue.
        """
        if self._counters is None:
            self._counters, self._accounted = dict(counters), -pending
            return 0
        for key, value in counters.items():
            before = self._counters.get(key, 0)
            self._counted += value - before if value >= before else value
        self._counters = dict(counters)
        missing = self._counted - self._accounted - pending
        lost = max(0, min(missing, self._missing_before))
        self._accounted += lost
        self._missing_before = missing - lost
        return lost
