"""What the connection program prints, as times."""

from __future__ import annotations

import pytest

from bench.contest import parse_times


def test_times_are_kept_round_by_round():
    times = parse_times("0 none 100.0 900 0\n0 ours 110.0 850 0\n1 ours 220.0 400 0\n1 none 200.0 420 0\n")
    assert times.by_name == {"none": (100.0, 200.0), "ours": (110.0, 220.0)}
    assert times.rate_ratio("ours", "none").p50 == pytest.approx(1 / 1.1)


def test_added_time_is_in_microseconds():
    times = parse_times("0 a 1000.0 9 0\n0 b 3500.0 9 0\n")
    assert times.added("b", "a").p50 == pytest.approx(2.5)


def test_a_failed_connection_makes_the_run_void():
    with pytest.raises(RuntimeError, match="3 of 900 connections failed under ours"):
        parse_times("0 ours 100.0 900 3\n")
