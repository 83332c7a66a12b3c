"""Many denied packets into few denials. Pure: the time comes in with every call.

The first packet of a key goes out at once. Its repeats are counted, and go out together once per interval. A key
without a repeat in a whole interval is forgotten; the number of keys at a time is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from segctl_agent.denials.values import Attribution, Verdict
from segctl_agent.facts.values import Address

MAX_KEYS = 4096
INTERVAL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Key:
    """What makes two packets one denial: everything that is known without a look at the process. The owner's uid
    keeps programs of different users apart."""

    ingress: bool
    verdict: Verdict
    workload: str
    remote: Address
    protocol: str
    port: int
    uid: int | None


@dataclass(frozen=True, slots=True)
class Aggregate:
    """`count` packets of a key, first and last at these Unix times in microseconds."""

    key: Key
    count: int
    first_us: int
    last_us: int
    attribution: Attribution


class Step(Enum):
    """What becomes of a packet."""

    NEW = auto()
    """The first of its key: find its process and report it now."""
    REPEAT = auto()
    """The first repeat of its window: find its process and call `attribute`; reported when the window ends."""
    COUNTED = auto()
    LOST = auto()
    """Too many keys at a time: only counted, in `lost`."""


@dataclass(slots=True)
class _Window:
    ends: float
    count: int = 0
    first_us: int = 0
    last_us: int = 0
    attribution: Attribution | None = None


class Coalescer:
    """Times are seconds of any clock that never goes back."""

    def __init__(self, interval: float = INTERVAL_SECONDS, max_keys: int = MAX_KEYS) -> None:
        self.lost = 0
        self._interval = interval
        self._max_keys = max_keys
        # Every window is equally long and a new one goes to the end, so they lie in the order in which they end.
        self._windows: dict[Key, _Window] = {}

    def __len__(self) -> int:
        return len(self._windows)

    def add(self, key: Key, at_us: int, now: float) -> Step:
        """Take one packet in. Call `due` first when time has passed."""
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= self._max_keys:
                self.lost += 1
                return Step.LOST
            self._windows[key] = _Window(now + self._interval)
            return Step.NEW
        window.count += 1
        if window.count == 1:
            window.first_us = window.last_us = at_us
            return Step.REPEAT
        window.first_us = min(window.first_us, at_us)
        window.last_us = max(window.last_us, at_us)
        return Step.COUNTED

    def attribute(self, key: Key, attribution: Attribution) -> None:
        """The process of a key's current window, as its first packet told."""
        self._windows[key].attribution = attribution

    def due(self, now: float) -> list[Aggregate]:
        """Repeats whose window has ended."""
        ended = []
        for key, window in self._windows.items():
            if window.ends > now:
                break
            ended.append((key, window))
        aggregates = []
        for key, window in ended:
            del self._windows[key]
            if window.count:
                self._windows[key] = _Window(now + self._interval)
                aggregates.append(_aggregate(key, window))
        return aggregates

    def close(self) -> list[Aggregate]:
        """Every repeat not told yet, whether or not its window has ended."""
        windows, self._windows = self._windows, {}
        return [_aggregate(key, window) for key, window in windows.items() if window.count]

    def next_due(self) -> float | None:
        """When the first window ends; None when there is none."""
        return next((window.ends for window in self._windows.values()), None)


def _aggregate(key: Key, window: _Window) -> Aggregate:
    return Aggregate(key, window.count, window.first_us, window.last_us, window.attribution or Attribution())
