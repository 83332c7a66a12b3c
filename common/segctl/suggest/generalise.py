"""From observed pairs to few patterns: the shortest description of what was seen, within a bound on what was not.

Every pair begins as a pattern of its own. In each round one thing is said of one key less - any value at the source,
at the destination, at both, or the same value at both - wherever that makes one pattern of several; the round that
saves most is taken, until none saves anything. A pattern costs the bits that write it down, and the bits that say which
of the pairs it permits were seen (minimum description length). However much it saves, it is refused

- when it permits a pair that is forbidden: a boundary's, a denied flow's, one that somebody rejected;
- when more of the pairs that it permits were not seen than `EXCESS` of them, and rarity does not explain it.

A pair counts as not seen only when both its ends told anything for a good part of the window. How many pairs are likely
to exist that nobody saw is estimated from how many were seen once and twice, and never taken for more than were seen.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from segctl.suggest.pairs import (
    Pair,
    PairCounter,
    Pattern,
    SeenCounter,
    Values,
    any_pair,
    at_mask,
    exactly,
    pinned,
    same,
)

EXCESS = 0.1
Step = Literal["within", "source", "destination", "both"]
STEPS: tuple[Step, ...] = ("within", "both", "destination", "source")
"""In the order in which they are preferred where they save the same."""
MOST_COMPARED = 200
"""Patterns of one shape that are compared with one another."""
EVERY = -1
"""In the place of a key: the step says it of all keys at once. What a few pairs of a hundred cannot show key by key may
be plain as a whole."""


@dataclass(frozen=True, slots=True)
class Found:
    """`pairs` are the observed ones of the pattern; `permitted` is how many of ends that told anything it has."""

    pattern: Pattern
    pairs: tuple[Pair, ...]
    permitted: int


class Generaliser:
    """Of one shape: one program at each end and one service. `sightings` has the observed pairs, each with the number
    of bins it was seen in; rules are wanted for those of `start`. `awake` counts the pairs of groups where these
    programs told anything for long, `present` those where they told anything, `everyone` those of all hosts; `values`
    is, of each key, how many values either program was seen with. No `forbidden` pattern may have a pair in common with
    what is found."""

    def __init__(
        self,
        sightings: Mapping[Pair, int],
        start: Iterable[Pair],
        awake: PairCounter,
        present: PairCounter,
        everyone: PairCounter,
        values: Sequence[tuple[int, int]],
        forbidden: Sequence[Pattern] = (),
    ) -> None:
        self._start = tuple(sorted(start, key=str))
        self._exact = frozenset(map(exactly, self._start))
        self._awake, self._present, self._everyone = awake, present, everyone
        self._seen = SeenCounter(sightings)
        self._forbidden = forbidden
        self._keys = len(values)
        self._header = 2.0 * self._keys + 4.0
        self._value_bits = [tuple(math.log2(max(n, 2)) + 1 for n in both) for both in values]
        self._costs: dict[Pattern, float | None] = {}

    def patterns(self) -> tuple[Found, ...]:
        """In a fixed order. Every observed pair is in one of them at least, but those that no pattern can name without
        a forbidden one."""
        current = dict.fromkeys(p for p in map(exactly, self._start) if self._cost(p) is not None)
        while True:
            best, saved = current, 0.0
            for key in (*range(self._keys), EVERY):
                for step in STEPS:
                    tried, gain = self._try(current, key, step)
                    if gain > saved + 1e-9:
                        best, saved = tried, gain
            if best is current:
                best = self._absorbed(current)
            if best is current:
                break
            current = best
        return tuple(self._found(current))

    def _absorbed(self, current: dict[Pattern, None]) -> dict[Pattern, None]:
        """With one pattern widened so that it takes in others, where that saves: they may have come to say different
        things by different ways."""
        if len(current) > MOST_COMPARED:
            return current
        best, saved = current, 0.0
        for pattern, key, step in product(current, range(self._keys), STEPS):
            wider = _step(pattern, key, step)
            if wider is None or (cost := self._cost(wider)) is None:
                continue
            taken = [other for other in current if other != pattern and wider.covers(other)]
            gain = sum(self._cost(one) or 0.0 for one in (pattern, *taken)) - cost
            if taken and gain > saved + 1e-9:
                kept = (one for one in current if one != pattern and one not in taken)
                best, saved = dict.fromkeys((*kept, wider)), gain
        return best

    def _try(self, current: dict[Pattern, None], key: int, step: Step) -> tuple[dict[Pattern, None], float]:
        groups: dict[Pattern, list[Pattern]] = defaultdict(list)
        for pattern in current:
            wider = _step(pattern, key, step)
            groups[wider or pattern].append(pattern)
        made, gain = dict(current), 0.0
        for wide, members in groups.items():
            if wide in current and len(members) == 1:
                continue
            wider = _agreed(wide, members) if len(members) > 1 else wide
            if wider in current and wider not in members:
                continue  # it is a member elsewhere, and may go there
            cost = self._cost(wider)
            if cost is None or (len(members) == 1 and not self._may_alone(members[0], wider, key, step)):
                continue
            less = sum(self._cost(member) or 0.0 for member in members) - cost
            if less > 0:
                gain += less
                for member in members:
                    del made[member]
                made[wider] = None
        return made, gain

    def _may_alone(self, narrow: Pattern, wider: Pattern, key: int, step: Step) -> bool:
        """One pattern alone says less of a key only where that permits nothing more, for no repetition speaks for it;
        and nothing less of a value that both ends share, for that may be what matters."""
        shared = narrow.source[key] is not None and narrow.source[key] == narrow.destination[key]
        if key == EVERY or shared or step in ("both", "within"):
            return False
        return self._unseen(wider) == self._unseen(narrow)

    def _unseen(self, pattern: Pattern) -> int:
        return self._present.count(pattern) - self._seen.count(pattern).pairs

    @property
    def impossible(self) -> tuple[Pair, ...]:
        """The pairs that have no pattern without a forbidden one."""
        return tuple(pair for pair in self._start if self._cost(exactly(pair)) is None)

    def _cost(self, pattern: Pattern) -> float | None:
        """Bits; None where the pattern may not be."""
        if pattern not in self._costs:
            self._costs[pattern] = self._weigh(pattern)
        return self._costs[pattern]

    def _weigh(self, pattern: Pattern) -> float | None:
        seen = self._seen.count(pattern)
        permitted = max(self._awake.count(pattern), seen.pairs)
        if pattern not in self._exact and permitted - seen.pairs - seen.unseen > EXCESS * permitted:
            return None
        if any_pair(self._everyone, pattern, self._forbidden):
            return None
        bits = self._header
        for at, (near, far) in enumerate(self._value_bits):
            bits += near * (pattern.source[at] is not None) + far * (pattern.destination[at] is not None)
            bits += pattern.within >> at & 1
        strangers = max(0, self._present.count(pattern) - permitted)
        return bits + _log2_choose(permitted, seen.pairs) + math.log2(permitted + 1) + math.log2(strangers + 1)

    def _found(self, patterns: Iterable[Pattern]) -> Iterator[Found]:
        """Without those whose pairs others have, the smallest first."""
        members = _members(patterns, self._start)
        shared: dict[Pair, int] = defaultdict(int)
        for pairs in members.values():
            for pair in pairs:
                shared[pair] += 1
        ordered = sorted(patterns, key=lambda p: (len(members[p]), order(p)))
        for pattern in ordered:
            if all(shared[pair] > 1 for pair in members[pattern]):
                for pair in members.pop(pattern):
                    shared[pair] -= 1
        for pattern in sorted(members, key=order):
            yield Found(pattern, tuple(sorted(members[pattern], key=str)), self._awake.count(pattern))


def _members(patterns: Iterable[Pattern], pairs: Iterable[Pair]) -> dict[Pattern, list[Pair]]:
    """The pairs that each pattern matches: patterns that speak of the same keys are looked up together."""
    tables: dict[tuple[int, int, int], dict[tuple[Values, Values], Pattern]] = defaultdict(dict)
    members: dict[Pattern, list[Pair]] = {}
    for pattern in patterns:
        near, far = pinned(pattern.source), pinned(pattern.destination)
        at = at_mask(pattern.source, near), at_mask(pattern.destination, far)
        tables[near, far, pattern.within][at] = pattern
        members[pattern] = []
    for pair in pairs:
        for (near, far, within), table in tables.items():
            found = table.get((at_mask(pair[0], near), at_mask(pair[1], far)))
            if found is not None and same(within, *pair):
                members[found].append(pair)
    return members


def order(pattern: Pattern) -> tuple[str, ...]:
    return (*(v or "" for v in pattern.source), *(v or "" for v in pattern.destination), str(pattern.within))


def _step(pattern: Pattern, key: int, step: Step) -> Pattern | None:
    """The pattern that says less of the key, or None where it says nothing to take away."""
    if key == EVERY:
        return _leap(pattern, step)
    bit = 1 << key
    here, there = pattern.source[key], pattern.destination[key]
    shared = pattern.within & bit
    if step == "within":
        if shared or here is None or here != there:
            return None
        return Pattern(_without(pattern.source, key), _without(pattern.destination, key), pattern.within | bit)
    if step == "source":
        return None if here is None else replace(pattern, source=_without(pattern.source, key))
    if step == "destination":
        return None if there is None else replace(pattern, destination=_without(pattern.destination, key))
    if here is None and there is None and not shared:
        return None
    return Pattern(_without(pattern.source, key), _without(pattern.destination, key), pattern.within & ~bit)


def _agreed(wider: Pattern, members: Sequence[Pattern]) -> Pattern:
    """With what all of them say: only that may be left open, or be compared, in which they differ."""
    sources, destinations = _common([m.source for m in members]), _common([m.destination for m in members])
    within = wider.within
    for at, (near, far) in enumerate(zip(sources, destinations, strict=True)):
        if near is not None and near == far:
            within &= ~(1 << at)
    return Pattern(_kept(wider.source, sources, within), _kept(wider.destination, destinations, within), within)


def _common(ends: Sequence[Values]) -> Values:
    first, *rest = ends
    return tuple(v if all(end[at] == v for end in rest) else None for at, v in enumerate(first))


def _kept(open_: Values, common: Values, within: int) -> Values:
    return tuple(
        None if within >> at & 1 else o if o is not None else c
        for at, (o, c) in enumerate(zip(open_, common, strict=True))
    )


def _leap(pattern: Pattern, step: Step) -> Pattern | None:
    nothing = tuple(None for _ in pattern.source)
    ends = list(zip(pattern.source, pattern.destination, strict=True))
    wider = {
        "within": Pattern(
            tuple(None if a is not None and a == b else a for a, b in ends),
            tuple(None if a is not None and a == b else b for a, b in ends),
            pattern.within | sum(1 << at for at, (a, b) in enumerate(ends) if a is not None and a == b),
        ),
        "both": Pattern(nothing, nothing),
        "source": replace(pattern, source=nothing),
        "destination": replace(pattern, destination=nothing),
    }[step]
    return wider if wider != pattern else None


def _without(values: tuple[str | None, ...], key: int) -> tuple[str | None, ...]:
    return (*values[:key], None, *values[key + 1 :])


def _log2_choose(n: int, k: int) -> float:
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)
