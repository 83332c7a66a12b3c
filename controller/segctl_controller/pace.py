"""How fast one host may make work: token buckets by host, so that more streams give no more."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """A token bucket in monotonic seconds: `burst` at once, then `rate` a second."""

    def __init__(self, rate: float, burst: float, now: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._now = now
        self._tokens = burst
        self._at = now()

    def delay(self, tokens: int = 1) -> float:
        """Take tokens; how long to wait before using them, in seconds."""
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - tokens
        self._at = now
        return max(0.0, -self._tokens / self._rate)


class Paces:
    """One bucket a host; only names of enrolled hosts come here, so their number is bounded."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._by_host: dict[str, Pace] = {}

    def delay(self, host: str, tokens: int = 1) -> float:
        return self._by_host.setdefault(host, Pace(self._rate, self._burst)).delay(tokens)
