"""Rows for bench/out/suggest.json: quality on fleets whose true policy is known, and time over ten million flows.

Seeds below 100 are for development; the figures are of seeds that nobody looked at while the suggester was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.rows import Goal, Row
from bench.suggest.score import SEEN, Score, trial
from bench.suggest.world import build

LOOKED_AT, LATER = 28, 14
"""Days."""
FIRST_SEED = 701


@dataclass(frozen=True, slots=True)
class Size:
    """`scale` multiplies the servers of each role in prod."""

    name: str
    apps: int
    envs: int
    scale: int
    seeds: int


SIZES = (
    Size("small: 3 applications, 2 environments", 3, 2, 1, 8),
    Size("middle: 12 applications, 3 environments", 12, 3, 1, 8),
    Size("large: 40 applications, 5 environments", 40, 5, 1, 3),
)


def quality(quick: bool) -> Iterator[Row]:
    """Of each size the worst of all seeds; the median would hide what somebody would have met."""
    for size in SIZES[:2] if quick else SIZES:
        seeds = range(FIRST_SEED, FIRST_SEED + (2 if quick else size.seeds))
        scores = [_score(size, seed) for seed in seeds]
        yield from _rows(size, scores)


def _score(size: Size, seed: int) -> Score:
    world = build(seed, size.apps, size.envs, size.scale, LOOKED_AT + LATER)
    return trial(world, 1000 * seed, LOOKED_AT, LATER).score


def _rows(size: Size, scores: Sequence[Score]) -> Iterator[Row]:
    how = (
        f"worst of {len(scores)} worlds (seeds {FIRST_SEED} to {FIRST_SEED + len(scores) - 1}); {LOOKED_AT} days "
        f"looked at, the {LATER} days after them held out"
    )

    def each(values: Sequence[float], form: str) -> str:
        return f"{how}; of each: {', '.join(format(value, form) for value in values)}"

    covered = [100 * one.coverage for one in scores]
    excess = [100 * one.excess for one in scores]
    ratios = [one.ratio for one in scores]
    attempted = sum(one.attempted for one in scores)
    yield Row(
        f"coverage of later legitimate flows, {size.name}",
        round(min(covered), 3),
        "%",
        each(covered, ".3f"),
        Goal(">=", 99.5),
    )
    settled = [100 * one.settled for one in scores]
    yield Row(
        f"the same without the application that came two days before the end, {size.name}",
        round(min(settled), 3),
        "%",
        each(settled, ".3f"),
    )
    for at, when in enumerate(SEEN):
        missed = [100 * one.missed[at] for one in scores]
        yield Row(
            f"later legitimate flows not covered, of kinds {when}, {size.name}",
            round(max(missed), 3),
            "%",
            each(missed, ".3f"),
        )
    yield Row(
        f"excess permission against the true policy, {size.name}",
        round(max(excess), 3),
        "%",
        f"{each(excess, '.3f')}; of all pairs of programs on machines that the suggested rules permit",
        Goal("<=", 10),
    )
    numbers = ", ".join(f"{one.rules}/{one.true_rules}" for one in scores)
    yield Row(
        f"rules, times the true number, {size.name}",
        round(max(ratios), 3),
        "x",
        f"{how}; suggested/true: {numbers}",
        Goal("<=", 1.3),
    )
    yield Row(
        f"attack flows covered, {size.name}",
        float(sum(one.attacks for one in scores)),
        "kinds",
        f"of {attempted} kinds of attack flows in {len(scores)} worlds, while looked at and after: spreading, "
        "scanning, guessing passwords, calling home, lying in wait",
        Goal("==", 0),
    )
    seconds = [one.seconds for one in scores]
    yield Row(f"CPU of one run, {size.name}", round(max(seconds), 1), "s", f"longest of {len(scores)}")
