"""Observations in the terms of rules: one cell for each pair of tag groups, by program and service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from segctl.model.inventory import Inventory
from segctl.model.policy import Policy, PortRange, Tags
from segctl.suggest.identify import ANY_PROCESS, Kind, Who
from segctl.suggest.observed import Observation, ObservedEnd
from segctl.suggest.pairs import Pair, Values

MOST_VALUES = 20
"""Values of a tag that nobody declared, from which on it may be another name for a host."""


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """What rules are found for one at a time: a program at each end, and a service."""

    source: Who
    destination: Who
    service: PortRange


@dataclass(slots=True)
class Cell:
    """What was observed between two tag groups. `hosts` opened connections, or addresses: of several observations of
    the same ones (by all their tags) the number of that with most, for they may tell of the same hosts. `owed`: the
    policy permits it today, and would not when the process gets a workload of its own."""

    pair: Pair
    flows: int = 0
    bins: int = 0
    owed: bool = False
    _hosts: dict[ObservedEnd, int] = field(default_factory=dict)
    first_us: int = 0
    last_us: int = 0
    observations: list[Observation] = field(default_factory=list)

    @property
    def hosts(self) -> int:
        return sum(self._hosts.values())

    def add(self, one: Observation) -> None:
        self.flows += one.flows
        self.bins |= one.bins
        who = ObservedEnd(one.source.tags, network=one.source.network)
        self._hosts[who] = max(self._hosts.get(who, 0), one.source_hosts)
        self.first_us = min(self.first_us, one.first_us) if self.observations else one.first_us
        self.last_us = max(self.last_us, one.last_us)
        self.observations.append(one)


Shapes = dict[Shape, dict[Pair, Cell]]


class Fleet:
    """The tag groups of the enrolled hosts, by the keys that rules may name: those of the vocabulary, and others that
    are not just a name for each host. The last value of a group is the site of an address, None for a host."""

    def __init__(self, policy: Policy, inventory: Inventory) -> None:
        self.keys = _keys(policy, inventory)
        self.groups: Counter[Values] = Counter(self.values(host.tags) for host in inventory.hosts.values())

    def values(self, tags: Tags) -> Values:
        carried = dict(tags.pairs)
        return (*(carried.get(key) for key in self.keys), None)

    def outside(self, site: str) -> Values:
        return (*(None for _ in self.keys), site)

    def tags(self, values: Values) -> Tags:
        return Tags.of((k, v) for k, v in zip(self.keys, values, strict=False) if v is not None)

    def words(self, values: Values) -> str:
        return values[-1] or str(self.tags(values)) or "hosts without tags"


def _keys(policy: Policy, inventory: Inventory) -> tuple[str, ...]:
    values: dict[str, Counter[str]] = {}
    for host in inventory.hosts.values():
        for key, value in host.tags.pairs:
            values.setdefault(key, Counter())[value] += 1
    kept = [key for key, found in values.items() if key in policy.tags or not _names_hosts(found)]
    return tuple(sorted({*kept, *policy.tags}))


def _names_hosts(found: Counter[str]) -> bool:
    return len(found) > MOST_VALUES and found.total() < 1.5 * len(found)


def adopt_unknown(shapes: Shapes) -> None:
    """Flows of which one end's process is not known join those between the same groups, by the same service, of the
    one program that is known to have them: what was seen of a listener once is true of the port."""
    for far in (True, False):
        known: dict[tuple[object, ...], set[Who]] = {}
        for shape, cells in shapes.items():
            who = shape.destination if far else shape.source
            if who.kind is not Kind.HOST:
                for pair in cells:
                    known.setdefault(_place(shape, pair, far), set()).add(who)
        for shape in [s for s in shapes if (s.destination if far else s.source) == ANY_PROCESS]:
            for pair in list(shapes[shape]):
                candidates = known.get(_place(shape, pair, far), set())
                if len(candidates) == 1:
                    (who,) = candidates
                    to = Shape(shape.source, who, shape.service) if far else Shape(who, *_rest(shape))
                    _move(shapes, shape, to, pair)


def _rest(shape: Shape) -> tuple[Who, PortRange]:
    return shape.destination, shape.service


def _place(shape: Shape, pair: Pair, far: bool) -> tuple[object, ...]:
    """Where an unknown process was: a listener is known by its port alone, a client by all that it did."""
    return (pair[1], shape.service) if far else (pair, shape.destination, shape.service)


def _move(shapes: Shapes, old: Shape, new: Shape, pair: Pair) -> None:
    moved = shapes[old].pop(pair)
    if not shapes[old]:
        del shapes[old]
    cell = shapes.setdefault(new, {}).setdefault(pair, Cell(pair))
    for one in moved.observations:
        cell.add(one)


def flows(observations: Iterable[Observation]) -> int:
    return sum(one.flows for one in observations)


def union(cells: Sequence[Cell]) -> int:
    bins = 0
    for cell in cells:
        bins |= cell.bins
    return bins
