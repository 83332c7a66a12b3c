"""The wall clock, as a value that tests replace. Timeouts never use it: they are the event loop's, and monotonic."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime


@dataclass(frozen=True, slots=True)
class Clock:
    """`now_us` gives Unix time in microseconds."""

    now_us: Callable[[], int] = lambda: time.time_ns() // 1000

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.now_us() / 1e6, UTC)

    def today(self) -> date:
        return self.now().date()

    def seconds_to_midnight(self) -> float:
        """Seconds until the next UTC day, at least one."""
        now = self.now()
        passed = now.hour * 3600 + now.minute * 60 + now.second + now.microsecond / 1e6
        return max(1.0, 86400.0 - passed)
