"""The wall clock, as a value that tests replace. Timeouts never use it: they are the event loop's, and monotonic."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Clock:
    """`now_us` gives Unix time in microseconds."""

    now_us: Callable[[], int] = lambda: time.time_ns() // 1000

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.now_us() / 1e6, UTC)

    def seconds_until(self, moment: datetime) -> float:
        """Seconds from now to `moment`, never negative."""
        return max(0.0, (moment - self.now()).total_seconds())
