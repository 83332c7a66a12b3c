"""What metrics are read from: their declarations, durations, the lag of a loop. Plain numbers: the library that tells
them to Prometheus is loaded when somebody first asks (segctl.metrics), for it costs an agent 3 MB."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of a histogram, seconds."""
LAG_WINDOW_SECONDS = 30.0


@dataclass(slots=True)
class Durations:
    """A histogram. `counts` has one more than BUCKETS, for what took longer. One thread adds at a time."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


Value = float | Mapping[str, float] | Durations
"""Of a metric, or one for each value of its labels."""


@dataclass(frozen=True, slots=True)
class Metric:
    """`name` without _total; `kind` gauge, counter or histogram. The labels have the values `values` and no others:
    what else is counted is `other`. With two labels their values are joined: `in/denied`."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[str, ...] = ()

    @property
    def exposed(self) -> str:
        """As Prometheus sees it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


class LoopLag:
    """How late the loop came to its work, in seconds: the worst of the last 30 to 60 s, and the delay of every tick."""

    def __init__(self) -> None:
        self._now, self._before, self._since = 0.0, 0.0, time.monotonic()
        self.delays = Durations()

    @property
    def worst(self) -> float:
        return max(self._now, self._before)

    async def run(self, every: float = 0.5) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(every)
            now = time.monotonic()
            if now - self._since > LAG_WINDOW_SECONDS:
                self._before, self._now, self._since = self._now, 0.0, now
            late = max(0.0, now - began - every)
            self._now = max(self._now, late)
            self._note(late, every)

    def _note(self, late: float, every: float) -> None:
        """A loop that stands still misses ticks. Each counts, with its own delay: else the longer it stands, the fewer
        samples would tell of it."""
        self.delays.add(late)
        while late > every:
            late -= every
            self.delays.add(late)
