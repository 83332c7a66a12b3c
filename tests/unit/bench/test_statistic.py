"""Statistics over paired samples."""

from __future__ import annotations

import pytest

from bench.statistic import paired_ratio, percentile, spread


def test_a_slow_round_does_not_move_a_paired_ratio():
    floor = [10.0, 11.0, 90.0, 10.0, 10.0]
    ours = [10.5, 11.55, 94.5, 10.5, 10.5]
    assert paired_ratio(floor, ours).p50 == pytest.approx(10 / 10.5)
    assert paired_ratio(floor, ours).p90 == pytest.approx(10 / 10.5)


def test_percentiles_are_values_of_the_sample():
    sample = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert percentile(sample, 0.0) == 1.0
    assert percentile(sample, 0.95) == 5.0
    assert spread(sample).p50 == 3.0


@pytest.mark.parametrize("of", [spread, lambda s: percentile(s, 0.5)])
def test_nothing_measured_is_an_error_not_a_zero(of):
    with pytest.raises(ValueError, match="returned no sample"):
        of([])


def test_rounds_that_do_not_match_are_an_error():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        paired_ratio([1.0], [1.0, 2.0])
