"""How often something comes round, from the days on which it was seen.

Days are numbers of days since 1970 (UTC). Days in a row are one *visit*: a backup that runs past midnight, or a service
of working days, comes once a week.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise
from statistics import median

DAY_US = 24 * 3600 * 1_000_000
REGULAR = 3
"""Visits from which on a period is believed, when they come regularly."""
RARE = 14
"""Days between two visits after which two are enough: of what comes monthly nobody sees three in time."""
SLACK = 0.2
"""Of the shortest interval: by so much the others may be longer. Months have 28 to 31 days."""


def day_of(then_us: int) -> int:
    return then_us // DAY_US


def today(now: datetime) -> int:
    return int(now.timestamp()) // 86_400


def days_of(bitmap: int, first: int) -> tuple[int, ...]:
    """The days of a bitmap whose lowest bit is the day `first`; ascending."""
    return tuple(first + at for at in range(bitmap.bit_length()) if bitmap >> at & 1)


def visits(days: Iterable[int]) -> list[tuple[int, int]]:
    """The first and the last day of each, in order."""
    found: list[tuple[int, int]] = []
    for day in sorted(set(days)):
        if found and found[-1][1] == day - 1:
            found[-1] = (found[-1][0], day)
        else:
            found.append((day, day))
    return found


def period(days: Iterable[int]) -> int | None:
    """Days from the begin of one visit to that of the next; None where visits are not regular, or too few to tell."""
    begins = [first for first, _ in visits(days)]
    intervals = sorted(later - earlier for earlier, later in pairwise(begins))
    if not intervals or (len(begins) < REGULAR and intervals[0] < RARE):
        return None
    if intervals[-1] - intervals[0] > max(1.0, SLACK * intervals[0]):
        return None
    return round(median(intervals))


def usual_silence(days: Iterable[int]) -> int | None:
    """Days from one visit to the next, as long as they usually get: the longest one, and where there are three or more
    the second longest, for one may be a holiday. None before the second visit."""
    seen = visits(days)
    silences = sorted((later[0] - earlier[1] for earlier, later in pairwise(seen)), reverse=True)
    if not silences:
        return None
    return silences[1] if len(silences) >= REGULAR else silences[0]
