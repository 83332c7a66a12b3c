"""How often to heal: at once, but not in an endless fight with another program. Pure; times in seconds."""

from __future__ import annotations

from collections import deque

HEALS_PER_SECOND = 10
FIGHT_HEALS = 20
_MINUTE = 60.0


class Throttle:
    """Remembers the heals of the last minute."""

    def __init__(self) -> None:
        self._heals: deque[float] = deque()
        self._told_at: float | None = None

    def wait(self, now: float) -> float:
        """Seconds until a heal is due: 0 for at once."""
        recent = [t for t in self._heals if now - t < 1.0]
        return max(0.0, recent[-HEALS_PER_SECOND] + 1.0 - now) if len(recent) >= HEALS_PER_SECOND else 0.0

    def healed(self, now: float) -> bool:
        """Notes a heal. True, at most once a minute, when there were so many that it is a fight."""
        self._heals.append(now)
        while now - self._heals[0] > _MINUTE:
            self._heals.popleft()
        if len(self._heals) < FIGHT_HEALS or (self._told_at is not None and now - self._told_at < _MINUTE):
            return False
        self._told_at = now
        return True
