"""Patterns and what they permit: counted as by looking at every pair, and within the bounds whatever was seen."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from segctl.suggest.generalise import EXCESS, Generaliser
from segctl.suggest.pairs import OFTEN, PairCounter, Pattern, Seen, SeenCounter, exactly

VALUES = st.tuples(*(st.sampled_from(("a", "b", "c", None)) for _ in range(3)))
WANTED = st.tuples(*(st.sampled_from(("a", "b", None)) for _ in range(3)))
GROUPS = st.lists(VALUES, min_size=1, max_size=8, unique=True)


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    source, destination, within = draw(WANTED), draw(WANTED), draw(st.integers(0, 7))
    free = [at for at in range(3) if within >> at & 1 and (source[at] or destination[at])]
    return Pattern(source, destination, within & ~sum(1 << at for at in free))


@given(GROUPS, GROUPS, patterns(), st.sets(VALUES, max_size=4))
def test_pairs_are_counted_as_by_looking_at_each(
    sources: list[tuple[str | None, ...]],
    destinations: list[tuple[str | None, ...]],
    pattern: Pattern,
    lone: set[tuple[str | None, ...]],
) -> None:
    pairs = [p for p in product(sources, destinations) if not (p[0] == p[1] and p[0] in lone)]
    matching = [pair for pair in pairs if pattern.matches(pair)]
    assert PairCounter(sources, destinations, lone).count(pattern) == len(matching)
    seen = SeenCounter(dict.fromkeys(pairs, OFTEN)).count(pattern)
    assert (seen.often, seen.bins, seen.pairs) == (len(matching), OFTEN * len(matching), len(matching))


@given(patterns(), patterns(), st.tuples(VALUES, VALUES))
def test_what_two_patterns_share_is_what_both_match(
    one: Pattern, other: Pattern, pair: tuple[tuple[str | None, ...], tuple[str | None, ...]]
) -> None:
    met = one.narrowed(other)
    assert (met is not None and met.matches(pair)) == (one.matches(pair) and other.matches(pair))
    assert not one.covers(other) or not other.matches(pair) or one.matches(pair)


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.tuples(VALUES, VALUES), st.integers(1, 9), min_size=1, max_size=14),
    st.lists(patterns(), max_size=2),
    GROUPS,
)
def test_every_pair_is_explained_within_the_bounds(
    sightings: dict[tuple[tuple[str | None, ...], tuple[str | None, ...]], int],
    forbidden: list[Pattern],
    more: list[tuple[str | None, ...]],
) -> None:
    awake = PairCounter([s for s, _ in sightings] + more, [d for _, d in sightings] + more)
    generaliser = Generaliser(sightings, sightings, awake, awake, awake, [(3, 3)] * 3, forbidden)
    found = generaliser.patterns()
    explained = {pair for one in found for pair in one.pairs}
    assert explained | set(generaliser.impossible) == set(sightings)
    assert not explained & {pair for pair in sightings if any(bad.matches(pair) for bad in forbidden)}
    counter = SeenCounter(sightings)
    for one in found:
        for bad in forbidden:
            met = one.pattern.narrowed(bad)
            assert met is None or awake.count(met) == 0
        if one.pattern not in {exactly(pair) for pair in sightings}:
            seen = counter.count(one.pattern)
            assert awake.count(one.pattern) - seen.pairs - seen.unseen <= EXCESS * awake.count(one.pattern)


def test_what_is_seen_seldom_counts_beside_what_is_seen_seldom() -> None:
    assert Seen(often=3, bins=9, once=4, twice=2).pairs == 9
    assert Seen(often=3, bins=84, once=4, twice=2).pairs == 3
    assert Seen(often=0, once=4, twice=1).unseen == 3.0
    assert Seen(often=0, once=4, twice=0).unseen == 4.0  # never more than were seen
    assert Seen(often=3, bins=84, once=4).unseen == 0.0
