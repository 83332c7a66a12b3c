"""Robust statistics over paired samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, 10th and 90th percentile of a sample."""

    p10: float
    p50: float
    p90: float

    def __str__(self) -> str:
        return f"p10 {self.p10:.3g}, p90 {self.p90:.3g}"


def percentile(sample: Sequence[float], share: float) -> float:
    """The value that `share` (0..1) of the sample does not exceed; raises ValueError for an empty sample."""
    if not sample:
        raise ValueError("a percentile of nothing: the measurement returned no sample")
    ordered = sorted(sample)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(sample: Sequence[float]) -> Spread:
    if not sample:
        raise ValueError("a spread of nothing: the measurement returned no sample")
    return Spread(percentile(sample, 0.1), median(sample), percentile(sample, 0.9))


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """The spread of a/b, round by round: what the machine did to a whole round cancels out."""
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])
