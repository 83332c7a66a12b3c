"""How a generation comes into force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Way:
    """Times in seconds. `canary` are tags of the hosts that go first, `waves` the parts in which the others follow."""

    wait: int = 30
    watch: int = 0
    canary: Mapping[str, str] = field(default_factory=dict)
    waves: int = 1
    pause: int = 0
    accept_denials: bool = False
    without: Sequence[str] = ()

    @property
    def longest(self) -> int:
        """Seconds that it may take in all."""
        waves = self.waves + bool(self.canary)
        return 3 * self.wait + waves * (self.wait + self.watch + self.pause)
