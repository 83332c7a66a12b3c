"""What happened since the agent began, as plain numbers: what metrics are read from. Counts nothing by name."""

from __future__ import annotations

from dataclasses import dataclass, field

from segctl.measure import Durations


@dataclass(slots=True)
class Tally:
    """`denials` by `direction/verdict`, in packets; `applied` is how long each policy took from its arrival to its
    proof."""

    denials: dict[str, int] = field(default_factory=dict)
    undescribed: int = 0
    heals: int = 0
    applied: Durations = field(default_factory=Durations)

    def denied(self, ingress: bool, verdict: str, count: int) -> None:
        key = f"{'in' if ingress else 'out'}/{verdict}"
        self.denials[key] = self.denials.get(key, 0) + count
