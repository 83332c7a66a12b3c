"""Days into seasons."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl.policy.life.season import days_of, period, usual_silence, visits

MONTHLY = (0, 31, 59, 90)
"""The first of January, February, March and April."""
WORKDAYS = tuple(7 * week + day for week in range(4) for day in range(5))


def test_days_in_a_row_are_one_visit() -> None:
    assert visits((9, 4, 3, 5, 4)) == [(3, 5), (9, 9)]
    assert visits(()) == []


@pytest.mark.parametrize(
    ("days", "every"),
    [
        ((0, 7, 14), 7),
        ((0, 7, 15, 22), 7),
        (MONTHLY, 31),
        (WORKDAYS, 7),
        ((0, 1, 30, 31), 30),
        ((0, 7), None),  # by chance, as far as anybody knows
        ((0, 7, 20), None),
        (range(20), None),
        ((5,), None),
        ((), None),
    ],
)
def test_the_period_of_what_comes_regularly(days: tuple[int, ...], every: int | None) -> None:
    assert period(days) == every


@given(st.integers(0, 20_000), st.integers(2, 120), st.integers(3, 20))
def test_what_comes_on_the_very_day_has_its_period(first: int, every: int, times: int) -> None:
    days = [first + every * n for n in range(times)]
    assert period(days) == usual_silence(days) == every


@pytest.mark.parametrize(
    ("days", "silence"),
    [((0, 7), 7), ((0, 1, 2, 20, 21, 22), 18), ((0, 2, 4, 40), 2), (WORKDAYS, 3), ((3, 4), None), ((), None)],
)
def test_the_silence_that_is_usual(days: tuple[int, ...], silence: int | None) -> None:
    assert usual_silence(days) == silence


@given(st.frozensets(st.integers(0, 62)), st.integers(0, 20_000))
def test_bitmaps_are_days(days: frozenset[int], first: int) -> None:
    assert days_of(sum(1 << day for day in days), first) == tuple(sorted(first + day for day in days))
