"""The delay of a loop from two readings of a histogram."""

from __future__ import annotations

import pytest

from bench.fleet.lag import delay_ms, reading

BEFORE = {0.01: 50.0, 0.02: 60.0, 0.05: 60.0, float("inf"): 60.0}


def test_what_was_before_does_not_count() -> None:
    after = {0.01: 50.0, 0.02: 160.0, 0.05: 160.0, float("inf"): 160.0}
    assert delay_ms(BEFORE, after, 0.5) == pytest.approx(15)


def test_a_share_falls_into_the_bucket_that_reaches_it() -> None:
    after = {0.01: 148.0, 0.02: 158.0, 0.05: 160.0, float("inf"): 160.0}
    assert delay_ms(BEFORE, after, 0.98) == pytest.approx(10)
    assert delay_ms(BEFORE, after, 0.99) == pytest.approx(35)


def test_what_is_over_the_last_bound_counts_as_that() -> None:
    after = {0.01: 50.0, 0.02: 60.0, 0.05: 60.0, float("inf"): 70.0}
    assert delay_ms(BEFORE, after, 0.99) == pytest.approx(50)


def test_a_controller_without_the_metric_is_named() -> None:
    with pytest.raises(ValueError, match="older than this bench"):
        reading("# TYPE other counter\nother_total 1\n")
