"""When flows were seen, and whether that is enough to call them a habit of the group rather than an accident."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from segctl.suggest.observed import Window, ones
from segctl.suggest.result import Reason, Rhythm

ENOUGH = 3
"""Sightings, or places, from which on something is a habit."""
PRESENT = 0.4
"""Of the days between the first and the last sighting: a week has two days without work."""
CHANCE = 0.05
"""That one host alone of several alike would have been seen by accident."""


@dataclass(frozen=True, slots=True)
class Times:
    """`sightings` are bins of the window, days or hours; `runs` those that follow one another, `gaps` the time from the
    beginning of one run to that of the next; `span` from the first to the last, `length` of the whole window."""

    sightings: int
    runs: int
    gaps: tuple[int, ...]
    span: int
    length: int
    by_day: bool

    @classmethod
    def of(cls, window: Window, bins: int) -> Times:
        seen = ones(bins)
        starts = [at for n, at in enumerate(seen) if n == 0 or at > seen[n - 1] + 1]
        gaps = tuple(b - a for a, b in pairwise(starts))
        span = seen[-1] - seen[0] + 1 if seen else 0
        return cls(len(seen), len(starts), gaps, span, window.bins, window.by_day)

    @property
    def rhythm(self) -> Rhythm:
        if self.runs <= 1 and self.sightings < ENOUGH:
            return Rhythm.ONCE
        if self.sightings >= ENOUGH and self.sightings >= PRESENT * self.span:
            return Rhythm.STEADY
        if self.gaps and self.sightings <= 2 * self.runs:
            usual = median(self.gaps)
            regular = all(abs(gap - usual * max(1, round(gap / usual))) <= max(1.0, usual / 10) for gap in self.gaps)
            if regular and self.by_day and 6 <= usual <= 8 and self.runs >= ENOUGH:
                return Rhythm.WEEKLY
            if regular and self.by_day and 27 <= usual <= 32:
                return Rhythm.MONTHLY
            if regular and self.runs >= ENOUGH:
                return Rhythm.REGULAR
        return Rhythm.SEVERAL

    def covers(self, share: float) -> bool:
        """Whether the sightings span that share of the window."""
        return self.span >= share * self.length


PERIODIC = (Rhythm.WEEKLY, Rhythm.MONTHLY, Rhythm.REGULAR)


@dataclass(frozen=True, slots=True)
class Witnesses:
    """Who opened connections: `hosts` of `of_hosts` with such tags, in `groups` tag groups, and whether each group
    keeps to itself (`apart`): the rule is within something. `sightings` counts bins, `least` those of the group that
    was seen in the fewest, `most` those of the pair of groups that was seen in the most; `lived` are those since
    anything was told of the oldest."""

    hosts: int
    of_hosts: int
    groups: int
    apart: bool
    sightings: int
    least: int
    lived: int
    most: int


ALONE = (
    "one host alone of {} with these tags does this: a rule by tags would open all of them; give that host a tag or a "
    "workload of its own, or look at what it does"
)


def is_alone(hosts: int, of_hosts: int, sightings: int) -> bool:
    """Whether it is one host of several, and would not be by accident."""
    return hosts == 1 and of_hosts > 1 and sightings > 1 and float(of_hosts) ** (1 - sightings) < CHANCE


def why_not(times: Times, seen: Witnesses) -> tuple[Reason, str] | None:
    """Why this is no habit yet, or None. In the order in which a person would ask."""
    if is_alone(seen.hosts, seen.of_hosts, seen.sightings):
        return Reason.ONE_HOST, ALONE.format(seen.of_hosts)
    if seen.groups >= ENOUGH and seen.apart:
        return None
    rhythm = times.rhythm
    if rhythm in PERIODIC:
        return None
    lasting = times.covers(0.25) or 2 * times.sightings >= seen.lived
    if seen.hosts > 1 and seen.hosts >= seen.of_hosts > 0 and seen.least > 1 and lasting:
        return None  # not one of several: all of them do it, did it again, and it is no episode of their lives
    if rhythm is Rhythm.ONCE or times.sightings < ENOUGH:
        return Reason.ONCE, f"seen {counted(times)} only; a job that runs rarely shows its rhythm in a longer window"
    if seen.groups >= ENOUGH:
        return None
    # Many pairs that were seen once or twice each are many accidents sooner than one habit.
    enough = ENOUGH if seen.most >= ENOUGH else 2 * ENOUGH
    if seen.hosts > 1 and times.sightings >= enough and times.covers(0.25):
        return None
    if seen.hosts <= 1 and rhythm is Rhythm.STEADY and times.covers(0.5):
        return None
    part = "half" if seen.hosts <= 1 else "a quarter"
    return Reason.YOUNG, f"seen {counted(times)}, over less than {part} of the window: wait, or write it by hand"


def counted(times: Times) -> str:
    unit = "day" if times.by_day else "hour"
    word = "on" if times.by_day else "in"
    return f"{word} {times.sightings} {unit}{'' if times.sightings == 1 else 's'}"
