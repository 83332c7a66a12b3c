"""When flows were seen: rhythms, and how much is enough."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from segctl.suggest.observed import DAY_US, HOUR_US, Window
from segctl.suggest.result import Reason, Rhythm
from segctl.suggest.rhythm import Times, Witnesses, why_not

EIGHT_WEEKS = Window.of(0, 56 * DAY_US)


def times(days: Iterable[int], window: Window = EIGHT_WEEKS) -> Times:
    return Times.of(window, sum(1 << day for day in days))


@pytest.mark.parametrize(
    ("days", "rhythm"),
    [
        ([], Rhythm.ONCE),
        ([4], Rhythm.ONCE),
        ([4, 5], Rhythm.ONCE),
        (range(20), Rhythm.STEADY),
        ([d for d in range(56) if d % 7 < 5], Rhythm.STEADY),
        ([2, 9, 16, 23], Rhythm.WEEKLY),
        ([2, 9, 23, 30], Rhythm.WEEKLY),
        ([2, 3, 9, 10, 16, 17], Rhythm.WEEKLY),
        ([1, 31], Rhythm.MONTHLY),
        ([2, 12, 22, 32], Rhythm.REGULAR),
        ([2, 12], Rhythm.SEVERAL),
        ([2, 5, 21, 40], Rhythm.SEVERAL),
    ],
)
def test_rhythms(days: Iterable[int], rhythm: Rhythm) -> None:
    assert times(days).rhythm is rhythm


def test_a_short_window_is_judged_by_hours_and_a_long_one_is_refused() -> None:
    hours = Window.of(5 * HOUR_US, 13 * HOUR_US)
    assert (hours.by_day, hours.bins, hours.bin_of(7 * HOUR_US)) == (False, 8, 2)
    assert times([0, 1, 2, 3, 4], hours).rhythm is Rhythm.STEADY
    for since, until in ((0, 0), (5, 4), (0, 57 * DAY_US)):
        with pytest.raises(ValueError, match="window"):
            Window.of(since, until)


@pytest.mark.parametrize(
    ("days", "seen", "reason"),
    [
        (range(56), Witnesses(1, 4, 1, False, 56, 56, 56, 56), Reason.ONE_HOST),
        (range(56), Witnesses(1, 1, 1, False, 56, 56, 56, 56), None),
        (range(20), Witnesses(1, 1, 1, False, 20, 20, 56, 20), Reason.YOUNG),
        (range(20), Witnesses(2, 4, 1, False, 20, 20, 56, 20), None),
        (range(5), Witnesses(2, 4, 1, False, 5, 5, 56, 5), Reason.YOUNG),
        ([8], Witnesses(2, 4, 1, False, 1, 1, 56, 1), Reason.ONCE),
        ([8], Witnesses(3, 3, 3, True, 3, 1, 56, 3), None),
        ([8, 9], Witnesses(3, 3, 1, False, 4, 4, 4, 4), None),
        ([8, 9], Witnesses(3, 3, 1, False, 4, 4, 5, 4), Reason.ONCE),
        ([8, 9, 11], Witnesses(3, 3, 1, False, 4, 4, 48, 4), Reason.YOUNG),  # an episode
        ([8], Witnesses(3, 3, 3, False, 3, 1, 56, 3), Reason.ONCE),
        ([8, 20], Witnesses(2, 2, 2, False, 2, 1, 56, 2), Reason.ONCE),  # two that did something once each
        ([2, 20, 30], Witnesses(2, 4, 1, False, 3, 3, 56, 1), Reason.YOUNG),  # of many pairs, each seen once
        ([2, 9, 16], Witnesses(1, 1, 1, False, 3, 3, 56, 3), None),
    ],
)
def test_what_is_enough(days: Iterable[int], seen: Witnesses, reason: Reason | None) -> None:
    found = why_not(times(days), seen)
    assert (found[0] if found else None) is reason
