"""How fast one host or caller may make work: token buckets by name, so that more streams give no more."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
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

    def take(self, longest: float) -> float | None:
        """Like `delay` for one token; None, and nothing is taken, where that would be more than `longest` seconds."""
        wait = self.delay()
        if wait <= longest:
            return wait
        self._tokens += 1
        return None


class Paces:
    """One bucket a host; only names of enrolled hosts come here, so their number is bounded."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._by_host: dict[str, Pace] = {}

    async def wait(self, host: str, tokens: int = 1) -> None:
        """Take tokens of the host; returns when they may be used, which is mostly at once."""
        pace = self._by_host.get(host)
        if pace is None:
            pace = self._by_host[host] = Pace(self._rate, self._burst)
        delay = pace.delay(tokens)
        if delay:
            await asyncio.sleep(delay)


class BoundedPaces:
    """One bucket for each of the last `most` names: who is forgotten was idle for longest, and begins anew."""

    def __init__(self, most: int = 4096, now: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._now = now
        self._by_name: OrderedDict[tuple[str, str], Pace] = OrderedDict()

    def take(self, name: tuple[str, str], rate: float, burst: float, longest: float) -> float | None:
        """See Pace.take."""
        pace = self._by_name.pop(name, None) or Pace(rate, burst, self._now)
        self._by_name[name] = pace
        while len(self._by_name) > self._most:
            self._by_name.popitem(last=False)
        return pace.take(longest)
