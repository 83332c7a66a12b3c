"""Rules in the making: habits that one rule can say together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from segctl.model.policy import PortRange
from segctl.suggest.habits import Habit
from segctl.suggest.identify import Kind, Who
from segctl.suggest.pairs import Pattern, Values
from segctl.suggest.sites import is_declared


@dataclass(frozen=True, slots=True)
class Draft:
    """Habits that differ in their service alone, or in strangers: one rule. `source` and `destination` are programs."""

    source: Who
    destination: Who
    pattern: Pattern
    peer: tuple[str, ...]
    habits: tuple[Habit, ...]

    @property
    def ports(self) -> tuple[PortRange, ...]:
        return tuple(sorted({habit.shape.service for habit in self.habits}))

    def groups(self, far: bool) -> Iterator[Values]:
        return (cell.pair[far] for habit in self.habits for cell in habit.cells)


def drafts_of(habits: Iterable[Habit]) -> list[Draft]:
    """One for each rule; the habits of a rule by its services."""
    found: dict[tuple[Who, Who, Pattern, tuple[str, ...]], list[Habit]] = defaultdict(list)
    loose: dict[tuple[Who, Who, PortRange, Pattern], dict[str, list[Habit]]] = {}
    for habit in habits:
        shape, pattern = habit.shape, habit.pattern
        if Kind.OUTSIDE not in (shape.source.kind, shape.destination.kind):
            found[shape.source, shape.destination, pattern, ()].append(habit)
            continue
        side = 0 if shape.source.kind is Kind.OUTSIDE else 1
        anywhere = _anywhere(pattern)
        for cell in habit.cells:
            site = cell.pair[side][-1] or ""
            own = replace(habit, pattern=anywhere, cells=tuple(c for c in habit.cells if c.pair[side][-1] == site))
            if is_declared(site):
                key = (shape.source, shape.destination, anywhere, (site,))
                if not any(h.shape == shape for h in found[key]):
                    found[key].append(own)
            else:
                loose.setdefault((shape.source, shape.destination, shape.service, anywhere), {})[site] = [own]
    for (source, destination, _, pattern), sites in loose.items():
        # Strangers of one rule are one peer, which is declared with it.
        members = [one for own in sites.values() for one in own]
        merged = replace(members[0], cells=tuple(cell for one in members for cell in one.cells))
        found[source, destination, pattern, tuple(sorted(sites))].append(merged)
    drafts = [Draft(*key, tuple(sorted(own, key=lambda h: h.shape))) for key, own in found.items()]
    return sorted(drafts, key=lambda d: (d.source, d.destination, d.peer, str(d.pattern)))


def _anywhere(pattern: Pattern) -> Pattern:
    """Without a pin to a site."""
    return Pattern((*pattern.source[:-1], None), (*pattern.destination[:-1], None), pattern.within)
