"""Who could talk to whom: patterns over pairs of tag groups, and how many pairs a pattern has.

A tag group is a tuple of values, one for each of the keys that count, None where it lacks the tag. A pattern pins
values at either end and may ask for the same value at both (`within`): what a rule can say.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from operator import itemgetter

Values = tuple[str | None, ...]
Pair = tuple[Values, Values]
"""Of the source's group and the destination's."""
Mask = int
"""Of keys, as bits."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """`source` and `destination` have None where any value will do. Keys of `within` are pinned at neither end."""

    source: Values
    destination: Values
    within: Mask = 0

    def matches(self, pair: Pair) -> bool:
        return _fits(self.source, pair[0]) and _fits(self.destination, pair[1]) and same(self.within, *pair)

    def narrowed(self, other: Pattern) -> Pattern | None:
        """What both match, or None where nothing can."""
        source, destination = _both(self.source, other.source), _both(self.destination, other.destination)
        if source is None or destination is None:
            return None
        left, right = list(source), list(destination)
        within = self.within | other.within
        for at in range(len(left)):
            if within >> at & 1 and (left[at] is not None or right[at] is not None):
                if left[at] is not None and right[at] is not None and left[at] != right[at]:
                    return None
                left[at] = right[at] = left[at] if left[at] is not None else right[at]
                within &= ~(1 << at)
        return Pattern(tuple(left), tuple(right), within)

    def covers(self, other: Pattern) -> bool:
        """Whether everything that `other` matches is matched."""
        met = self.narrowed(other)
        return met is not None and met == other


def exactly(pair: Pair) -> Pattern:
    return Pattern(*pair)


@lru_cache(maxsize=1 << 16)
def pinned(values: Values) -> Mask:
    return sum(1 << at for at, value in enumerate(values) if value is not None)


def same(within: Mask, source: Values, destination: Values) -> bool:
    at = 0
    while within >> at:
        if within >> at & 1 and (source[at] is None or source[at] != destination[at]):
            return False
        at += 1
    return True


def at_mask(values: Values, mask: Mask) -> Values:
    """The values of those keys alone."""
    return _getter(mask)(values)


@cache
def _getter(mask: Mask) -> Callable[[Values], Values]:
    chosen = [at for at in range(mask.bit_length()) if mask >> at & 1]
    if len(chosen) > 1:
        return itemgetter(*chosen)
    return (lambda values: (values[chosen[0]],)) if chosen else (lambda _: ())


def _fits(wanted: Values, values: Values) -> bool:
    return all(w is None or w == v for w, v in zip(wanted, values, strict=True))


def _both(one: Values, other: Values) -> Values | None:
    found = []
    for a, b in zip(one, other, strict=True):
        if a is not None and b is not None and a != b:
            return None
        found.append(a if a is not None else b)
    return tuple(found)


class PairCounter:
    """Counts the pairs of a pattern among all pairs of some sources and some destinations. A group that is one host
    alone (`lone`) has no pair with itself. What is needed of a set of keys is worked out once, in one walk over the
    groups."""

    def __init__(
        self, sources: Iterable[Values], destinations: Iterable[Values], lone: Collection[Values] = frozenset()
    ) -> None:
        self.sources, self.destinations = frozenset(sources), frozenset(destinations)
        both = self.sources & self.destinations
        self._itself = SeenCounter({(group, group): 1 for group in lone if group in both})
        self._tables: dict[tuple[bool, Mask, Mask], dict[Values, Counter[Values]]] = {}

    def count(self, pattern: Pattern) -> int:
        left, right = pinned(pattern.source), pinned(pattern.destination)
        here = self._table(False, left, pattern.within).get(at_mask(pattern.source, left))
        there = self._table(True, right, pattern.within).get(at_mask(pattern.destination, right))
        if not here or not there:
            return 0
        if len(there) < len(here):
            here, there = there, here
        found = sum(number * there[values] for values, number in here.items() if values in there)
        return found - self._itself.count(pattern).pairs

    def _table(self, far: bool, mask: Mask, within: Mask) -> dict[Values, Counter[Values]]:
        known = self._tables.get((far, mask, within))
        if known is None:
            known = defaultdict(Counter)
            compared, named = _getter(within), _getter(mask)
            for values in self.destinations if far else self.sources:
                shared = compared(values)
                if None not in shared:
                    known[named(values)][shared] += 1
            known = self._tables[far, mask, within] = dict(known)
        return known


OFTEN = 3
"""Bins from which on a pair was seen often."""
ALIKE = 5
"""Pairs that were seen seldom are like those that were seen often when these were not seen so many times as often."""


@dataclass(slots=True)
class Seen:
    """Of pairs: how many were seen often, in how many bins together, and how many in one bin alone and in two."""

    often: int = 0
    bins: int = 0
    once: int = 0
    twice: int = 0

    @property
    def pairs(self) -> int:
        """Those that count: a pair that was seen seldom beside others that are seen every day is something else."""
        usual = self.bins / self.often if self.often else 0.0
        return self.often + self.once * (usual <= ALIKE) + self.twice * (usual <= 2 * ALIKE)

    @property
    def unseen(self) -> float:
        """How many more there are likely to be that nobody saw (A. Chao 1984, of species); never more than were."""
        rare = self.once if self.often == 0 or self.bins <= ALIKE * self.often else 0
        return min(rare * (rare - 1) / (2 * (self.twice + 1)), self.pairs)


class SeenCounter:
    """Counts the observed pairs of a pattern. `sightings` says of each pair in how many bins it was seen."""

    def __init__(self, sightings: Mapping[Pair, int]) -> None:
        self._sightings = sightings
        self._tables: dict[tuple[Mask, Mask, Mask], dict[tuple[Values, Values], Seen]] = {}

    def count(self, pattern: Pattern) -> Seen:
        key = (pinned(pattern.source), pinned(pattern.destination), pattern.within)
        known = self._tables.get(key)
        if known is None:
            known = self._tables[key] = self._look(*key)
        at = (at_mask(pattern.source, key[0]), at_mask(pattern.destination, key[1]))
        return known.get(at) or Seen()

    def _look(self, near: Mask, far: Mask, within: Mask) -> dict[tuple[Values, Values], Seen]:
        found: dict[tuple[Values, Values], Seen] = {}
        left, right = _getter(near), _getter(far)
        for (source, destination), sightings in self._sightings.items():
            if within and not same(within, source, destination):
                continue
            seen = found.setdefault((left(source), right(destination)), Seen())
            if sightings >= OFTEN:
                seen.often += 1
                seen.bins += sightings
            else:
                seen.once += sightings == 1
                seen.twice += sightings == 2
        return found


def any_pair(counter: PairCounter, pattern: Pattern, forbidden: Iterable[Pattern]) -> bool:
    """Whether the pattern has a pair that one of the forbidden ones has."""
    return any((met := pattern.narrowed(bad)) is not None and counter.count(met) > 0 for bad in forbidden)
