"""Of one shape: the patterns that are habits, with their cells, and what is none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from segctl.suggest.cells import Cell, Fleet, Shape, union
from segctl.suggest.generalise import Found, Generaliser
from segctl.suggest.identify import Kind
from segctl.suggest.loners import loners
from segctl.suggest.observed import Window, first
from segctl.suggest.pairs import OFTEN, Pair, PairCounter, Pattern, Values
from segctl.suggest.result import Reason
from segctl.suggest.rhythm import ALONE, ENOUGH, PERIODIC, Times, Witnesses, counted, why_not
from segctl.suggest.services import is_public
from segctl.suggest.sites import ANY, are_everywhere, are_from_many_parts, is_declared

LASTING = 0.25
"""Of the window: what was seen over less is an episode."""
LIFELONG = 2
"""Sightings from which on what is young is judged by its own life."""


@dataclass(frozen=True, slots=True)
class Habit:
    """`permitted` counts the pairs of groups where both programs told anything. `late` is how many bins after the hosts
    of both ends were first seen it began."""

    shape: Shape
    pattern: Pattern
    cells: tuple[Cell, ...]
    permitted: int
    witnesses: Witnesses
    late: int = 0


@dataclass(frozen=True, slots=True)
class Unfit:
    reason: Reason
    why: str
    cells: tuple[Cell, ...]


class HabitFinder:
    """`lives` are the bins in which anything was told of the hosts of a group."""

    def __init__(self, fleet: Fleet, window: Window, lives: Mapping[Values, int]) -> None:
        self._fleet, self._window, self._lives = fleet, window, lives
        self._keys = range(len(fleet.keys) + 1)
        self._every_host = PairCounter(fleet.groups, fleet.groups)
        self._lone = frozenset(group for group, hosts in fleet.groups.items() if hosts == 1)

    def find(
        self,
        shape: Shape,
        cells: Mapping[Pair, Cell],
        permitted: Iterable[Pair],
        told: tuple[Iterable[Values], Iterable[Values]],
        awake: tuple[Iterable[Values], Iterable[Values]],
        forbidden: Sequence[Pattern],
    ) -> tuple[list[Habit], list[Unfit]]:
        """`permitted` are pairs of this shape that need no rule; `told` the groups where each end's program told
        anything,
        and `awake` those where it did for long. Of an end outside, they are empty."""
        unfit: list[Unfit] = []
        kept = self._by_site(shape, self._without_loners(shape, cells, unfit), unfit)
        if not kept:
            return [], unfit
        sightings = {pair: cell.bins.bit_count() for pair, cell in kept.items()}
        sightings |= {pair: OFTEN for pair in permitted if pair not in sightings}
        lifelong = {pair for pair, cell in kept.items() if self._public_for_life(shape, cell)}
        sightings |= {pair: max(OFTEN, sightings[pair]) for pair in lifelong}
        present = [{pair[side] for pair in sightings} | set(told[side]) for side in (0, 1)]
        values = tuple((len({v[at] for v in present[0]}), len({v[at] for v in present[1]})) for at in self._keys)
        there = PairCounter(present[0], present[1], self._lone)
        everyone = self._everyone(shape, present)

        def patterns(rest: Iterable[Pair], seen: Mapping[Pair, int]) -> tuple[tuple[Found, ...], tuple[Pair, ...]]:
            pairs = tuple(rest)
            ends = [{pair[side] for pair in pairs} | set(awake[side]) for side in (0, 1)]
            among = {p: s for p, s in seen.items() if p[0] in ends[0] and p[1] in ends[1]}
            counter = PairCounter(ends[0], ends[1], self._lone)
            generaliser = Generaliser(among, pairs, counter, there, everyone, values, forbidden)
            return generaliser.patterns(), generaliser.impossible

        habits: list[Habit] = []
        lost: list[Cell] = []
        # What was seen often, and is no episode, speaks first: the rest may be explained by it, and never widens it.
        strong = {pair for pair, cell in kept.items() if sightings[pair] >= OFTEN and self._lasts(cell)}
        owed = {pair for pair, cell in kept.items() if cell.owed}
        strong -= owed
        seldom = kept.keys() - strong - owed
        for start in (owed, strong, seldom):
            rest = [pair for pair in start if not any(habit.pattern.matches(pair) for habit in habits)]
            found_patterns, impossible = patterns(rest, sightings)
            for found in found_patterns:
                pairs = found.pairs
                if start is not seldom:  # whatever else the pattern permits, it explains
                    pairs += tuple(p for p in sorted(kept.keys() - start, key=str) if found.pattern.matches(p))
                chosen = tuple(kept[pair] for pair in pairs)
                sure = start is owed or all(pair in lifelong for pair in found.pairs)
                reason = self._judge(shape, found, chosen, sure=sure)
                if isinstance(reason, Witnesses):
                    habits.append(self._habit(shape, found, chosen, reason))
                else:
                    unfit.append(Unfit(*reason, tuple(kept[pair] for pair in found.pairs)))
            lost += [kept[pair] for pair in impossible]
        if not owed and len(habits) > 1:
            # Each is a habit by itself: now all of them speak together.
            mine = {cell.pair: cell for habit in habits for cell in habit.cells}
            together, _ = patterns(mine, sightings | {pair: max(OFTEN, sightings[pair]) for pair in mine})
            left = kept.keys() - mine.keys()
            opens = any(found.pattern.matches(pair) for found in together for pair in left)
            if len(together) < len(habits) and not opens:
                habits = []
                for found in together:
                    cells_of = tuple(mine[pair] for pair in found.pairs)
                    witnesses = self._judge(shape, found, cells_of, sure=True)
                    assert isinstance(witnesses, Witnesses)
                    habits.append(self._habit(shape, found, cells_of, witnesses))
        if lost:
            why = (
                "no rule by tags can name these flows and leave out what a boundary, a test or a rejection keeps apart"
            )
            unfit.append(Unfit(Reason.BOUNDARY, why, tuple(lost)))
        return habits, unfit

    def _habit(self, shape: Shape, found: Found, cells: tuple[Cell, ...], witnesses: Witnesses) -> Habit:
        return Habit(shape, found.pattern, cells, found.permitted, witnesses, min(map(self._late, cells)))

    def _without_loners(self, shape: Shape, cells: Mapping[Pair, Cell], unfit: list[Unfit]) -> dict[Pair, Cell]:
        alone = loners(self._fleet, cells.values()) if shape.source.kind is not Kind.OUTSIDE else set()
        for group in sorted(alone, key=str):
            own = tuple(cell for pair, cell in cells.items() if pair[0] == group)
            unfit.append(Unfit(Reason.ONE_HOST, ALONE.format(self._fleet.groups[group]), own))
        return {pair: cell for pair, cell in cells.items() if pair[0] not in alone}

    def _everyone(self, shape: Shape, present: Sequence[Iterable[Values]]) -> PairCounter:
        """All groups of hosts, whatever runs there."""
        source, destination = (
            present[far] if who.kind is Kind.OUTSIDE else self._fleet.groups
            for far, who in enumerate((shape.source, shape.destination))
        )
        inside = Kind.OUTSIDE not in (shape.source.kind, shape.destination.kind)
        return self._every_host if inside else PairCounter(source, destination)

    def _judge(
        self, shape: Shape, found: Found, cells: Sequence[Cell], *, sure: bool
    ) -> Witnesses | tuple[Reason, str]:
        # What was seen often is the witness; what was seen once beside it may be anything.
        cells = [cell for cell in cells if cell.bins.bit_count() >= OFTEN] or cells
        groups: dict[Values, int] = defaultdict(int)
        bins: dict[Values, int] = defaultdict(int)
        for cell in cells:
            groups[cell.pair[0]] = max(groups[cell.pair[0]], cell.hosts)
            bins[cell.pair[0]] |= cell.bins
        witnesses = Witnesses(
            hosts=sum(groups.values()),
            of_hosts=sum(self._fleet.groups[group] for group in groups),
            groups=len(groups) if shape.source.kind is not Kind.OUTSIDE else 1,
            apart=found.pattern.within != 0,
            sightings=sum(cell.bins.bit_count() for cell in cells),
            least=min(found.bit_count() for found in bins.values()),
            lived=max(map(self._lived, bins)),
            most=max(cell.bins.bit_count() for cell in cells),
        )
        return witnesses if sure else why_not(Times.of(self._window, union(cells)), witnesses) or witnesses

    def _public_for_life(self, shape: Shape, cell: Cell) -> bool:
        """Whether a known program served the public, from many parts of the internet, on two days at least and on most
        of the days since anything was told of its hosts. Hosts that are young are judged by their own life."""
        if cell.pair[0][-1] != ANY or shape.destination.kind is Kind.HOST or not is_public(shape.service):
            return False
        networks = [str(one.source.network) for one in cell.observations if one.source.network is not None]
        lived, sightings = self._lived(cell.pair[1]), cell.bins.bit_count()
        return sightings >= LIFELONG and 2 * sightings >= lived and are_from_many_parts(networks)

    def _lasts(self, cell: Cell) -> bool:
        """Whether it was seen over a quarter of the window, or on most of the days since the hosts of both ends are
        there."""
        lived = min((self._lived(group) for group in cell.pair if group in self._lives), default=self._window.bins)
        return Times.of(self._window, cell.bins).covers(LASTING) or 2 * cell.bins.bit_count() >= lived

    def _lived(self, group: Values) -> int:
        """Bins since anything was told of its hosts."""
        return self._window.bin_of(self._window.until_us - 1) + 1 - first(self._lives.get(group, 0))

    def _late(self, cell: Cell) -> int:
        lives = [life for group in cell.pair if (life := self._lives.get(group, 0))]
        return max(0, first(cell.bins) - max(map(first, lives), default=0))

    def _by_site(self, shape: Shape, cells: dict[Pair, Cell], unfit: list[Unfit]) -> dict[Pair, Cell]:
        """Each site outside has to be a habit by itself: sites that have nothing in common but to be strangers would
        vouch for each other. Where they are everywhere, a service for the public gets them all."""
        side = 0 if shape.source.kind is Kind.OUTSIDE else 1 if shape.destination.kind is Kind.OUTSIDE else None
        if side is None:
            return cells
        sites: dict[str, list[Cell]] = defaultdict(list)
        for pair, cell in cells.items():
            sites[pair[side][-1] or ""].append(cell)
        strangers = [site for site in sites if not is_declared(site)]
        everywhere = are_everywhere(strangers)
        if everywhere and is_public(shape.service):
            return self._for_everybody(cells, side)
        kept = dict(cells)
        alien: list[Cell] = []
        for site in strangers:
            reason = self._stranger(side, sites[site], everywhere)
            if reason is None:
                continue
            for cell in sites[site]:
                del kept[cell.pair]
            if everywhere:
                alien += sites[site]
            else:
                unfit.append(Unfit(*reason, tuple(sites[site])))
        if alien:
            why = "from everywhere, by a service that is not for everybody: opening that is a decision to write by hand"
            unfit.append(Unfit(Reason.FROM_EVERYWHERE, why, tuple(alien)))
        return kept

    def _stranger(self, side: int, cells: Sequence[Cell], everywhere: bool) -> tuple[Reason, str] | None:
        """Why a site that no peer names is left out."""
        times = Times.of(self._window, union(cells))
        regular = times.rhythm in PERIODIC
        if side == 0:
            if times.sightings >= ENOUGH and times.covers(0.5 if everywhere else 0.25):
                return None
            why = f"an address that no peer names, seen {counted(times)}: declare it as a peer if it is known"
            return (Reason.OUTSIDE, why) if not regular else None
        groups: dict[Values, int] = defaultdict(int)
        for cell in cells:
            groups[cell.pair[0]] = max(groups[cell.pair[0]], cell.hosts)
        hosts = sum(groups.values())
        if hosts > 1 and (times.sightings >= ENOUGH or regular) and times.covers(0.25):
            return None
        why = (
            f"{hosts} host{'s' if hosts > 1 else ''} called an address that no peer names, seen {counted(times)}: "
            "declare it as a peer if it is known"
        )
        return Reason.OUTSIDE, why

    def _for_everybody(self, cells: Mapping[Pair, Cell], side: int) -> dict[Pair, Cell]:
        """All strangers as one site."""
        merged: dict[Pair, Cell] = {}
        for pair, cell in cells.items():
            site = pair[side][-1] or ""
            if is_declared(site):
                merged[pair] = cell
                continue
            everybody = self._fleet.outside(ANY)
            new = (everybody, pair[1]) if side == 0 else (pair[0], everybody)
            into = merged.setdefault(new, Cell(new))
            for one in cell.observations:
                into.add(one)
        return merged
