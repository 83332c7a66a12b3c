"""The delay of the controller's event loop over a time, from two readings of its metrics."""

from __future__ import annotations

from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families

NAME = "segctl_controller_loop_delay_seconds"
Reading = dict[float, float]
"""How many ticks so far were at most so late (seconds)."""


def reading(page: str) -> Reading:
    """From the text of /metrics."""
    for family in text_string_to_metric_families(page):
        if family.name == NAME:
            return {float(s.labels["le"]): s.value for s in family.samples if s.name == f"{NAME}_bucket"}
    raise ValueError(f"{NAME} is not among the controller's metrics: it is older than this bench")


def delay_ms(before: Reading, after: Reading, share: float) -> float:
    """The delay that `share` of the ticks in between did not exceed: linear within a bucket, as histogram_quantile of
    Prometheus. What is over the last bound counts as that."""
    found = sorted((bound, after[bound] - before.get(bound, 0.0)) for bound in after)
    wanted = share * found[-1][1]
    for (low, below), (high, upto) in pairwise([(0.0, 0.0), *found]):
        if upto >= wanted and upto > below:
            return 1000 * (low if high == float("inf") else low + (high - low) * (wanted - below) / (upto - below))
    return 0.0
