"""Many denied packets into few denials. Pure: the time comes in with every call.

The first packet of a key goes out at once. Its repeats are counted, and go out together once per interval. A key
without a repeat in a whole interval is forgotten; the number of keys at a time is bounded. Packets that the kernel
counted but did not log (`surplus`) join the key of their flow that was logged last.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

from segctl_agent.denials.values import Attribution, Verdict
from segctl_agent.facts.values import Address

MAX_KEYS = 4096
INTERVAL_SECONDS = 1.0
REMEMBERED_SECONDS = 60.0
"""For how long packets without a log are taken for those of the process whose packet was logged last."""
NOT_LOGGED = Attribution(unknown="not looked up: so many packets were denied that this one was counted and not logged")


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

    def flow(self) -> Key:
        """The same for whoever owns the socket, which only a log tells."""
        return self if self.uid is None else replace(self, uid=None)


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
    attribution: Attribution = Attribution()  # noqa: RUF009 - frozen
    looked_up: bool = False
    """Whether a repeat has been looked up."""

    def take(self, count: int, first_us: int, last_us: int) -> None:
        self.first_us = min(self.first_us, first_us) if self.count else first_us
        self.last_us = max(self.last_us, last_us) if self.count else last_us
        self.count += count


class Coalescer:
    """Times are seconds of any clock that never goes back."""

    def __init__(self, interval: float = INTERVAL_SECONDS, max_keys: int = MAX_KEYS) -> None:
        self.lost = 0
        self._interval = interval
        self._max_keys = max_keys
        # Every window is equally long and a new one goes to the end, so they lie in the order in which they end.
        self._windows: dict[Key, _Window] = {}
        self._logged: dict[Key, tuple[Key, Attribution, float]] = {}  # by flow, the least recent first

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
        window.take(1, at_us, at_us)
        if window.looked_up:
            return Step.COUNTED
        window.looked_up = True
        return Step.REPEAT

    def attribute(self, key: Key, attribution: Attribution, now: float) -> None:
        """The process behind a key, as the first packet of its window told."""
        if key in self._windows:
            self._windows[key].attribution = attribution
        flow = key.flow()
        self._logged.pop(flow, None)
        if len(self._logged) >= self._max_keys:
            del self._logged[next(iter(self._logged))]
        self._logged[flow] = (key, attribution, now)

    def surplus(self, flow: Key, count: int, first_us: int, last_us: int, now: float) -> list[Aggregate] | None:
        """Packets that only the kernel counted. Answers what to report now: nothing when they wait for the end of a
        window. None: too many keys at a time, ask again later."""
        key, attribution, at = self._logged.get(flow, (flow, NOT_LOGGED, now))
        if now - at > REMEMBERED_SECONDS:
            key, attribution = flow, NOT_LOGGED
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= self._max_keys:
                return None
            self._windows[key] = _Window(now + self._interval, attribution=attribution)
            return [Aggregate(key, count, first_us, last_us, attribution)]
        window.take(count, first_us, last_us)
        return []

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
                self._windows[key] = _Window(now + self._interval, attribution=window.attribution)
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
    return Aggregate(key, window.count, window.first_us, window.last_us, window.attribution)
