"""The entries that rules make for an instance, worked out for many at once.

What an instance is told depends on two things. Which rules name it, in their order, is its *shape*: hosts of one role
have it in common, whatever their environment. What the other ends of those rules mean to it (`Context`) depends on the
tags that rules compare and on the boundaries that cut it: an environment has that in common, whatever the role. So an
entry is never made before it is sent: its text is a piece of the shape and the name of a group of the context.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter, itemgetter
from typing import Protocol, TypeVar

from segctl.model.hostpolicy import Entry, LocalWorkload
from segctl.model.policy import PortRange, Process, Rule, Selector
from segctl.policy.body import Encode, Encoded
from segctl.policy.cohorts import NO_GROUP, Cover, Kind, Remote, Stance, Table
from segctl.policy.decide import Direction
from segctl.policy.selectors import Coordinates

T = TypeVar("T")
Pairs = tuple[tuple[str, str], ...]
Meaning = tuple[Pairs, str | None, str | None]
"""Of a selector: tags, workload, peer."""


def meaning_of(selector: Selector) -> Meaning:
    return selector.tags.pairs, selector.workload, selector.peer


@dataclass(slots=True, eq=False)
class Named:
    """What selectors of one meaning name: the coordinates `at`, or a peer's networks. `number` tells it apart, `text`
    begins the meaning of the groups that it becomes."""

    selector: Selector
    at: Coordinates
    number: int
    text: str


@dataclass(slots=True, eq=False)
class Target:
    """The other end of rules, and the tags that it must have in common with them: equal ones are one object. `index`
    counts them. `ports` tell targets apart where a boundary may divide the workloads of a host, and only there. `table`
    is where the cohorts lie that it becomes, None for a peer."""

    index: int
    named: Named
    within: tuple[str, ...]
    ports: tuple[PortRange, ...]
    table: Table | None


@dataclass(slots=True, eq=False)
class End:
    """One end of a rule. `index` is where surroundings keep what its target means; `mark` is the line of an entry in
    the canonical text, up to its group; `wire` the same on the wire, and what follows the group there."""

    position: int
    rule: Rule
    target: Target
    index: int
    until: int
    mark: str
    wire: tuple[bytes, bytes] | None = None

    def entry(self, group: str) -> Entry:
        return Entry(self.rule.name, group, self.rule.ports, self.target.table is not None, self.until)

    def encoded(self, way: Direction, group: str, encode: Encode) -> tuple[bytes, bytes]:
        if self.wire is None:
            self.wire = encode(way, self.entry(group))
        return self.wire


_position = attrgetter("position")


@dataclass(slots=True, eq=False)
class Both:
    """The ends of rules that a selector is, by direction, each in the order of the rules."""

    ingress: list[End] = field(default_factory=list)
    egress: list[End] = field(default_factory=list)


class Shape:
    """The ends of all rules that name an instance, by direction, in the order of the rules; `named` are those of its
    selectors. `pick` takes from a list what has their indices, for incoming ones first."""

    __slots__ = ("_pieces", "_wires", "egress", "ingress", "named", "pick")

    def __init__(self, named: Sequence[Both], lacking: Collection[str]) -> None:
        """Without rules that compare keys of which it has no value: a relational rule never applies to an instance
        without the tag."""
        ingress = [end for both in named for end in both.ingress]
        egress = [end for both in named for end in both.egress]
        if lacking:
            ingress, egress = ([end for end in ends if not compares(end, lacking)] for ends in (ingress, egress))
        ingress.sort(key=_position)
        egress.sort(key=_position)
        ends = ingress + egress
        self.named, self.ingress, self.egress = named, ingress, egress
        self.pick = _picking([end.index for end in ends])
        self._pieces = [""] * (2 * len(ends))
        self._pieces[::2] = [end.mark for end in ends]
        self._wires: list[bytes] | None = None

    def lines(self, names: Sequence[str]) -> list[str]:
        """The canonical text of the entries, in pieces. `names` are those of their groups."""
        pieces = self._pieces.copy()
        pieces[1::2] = names
        return pieces

    def wire(self, names: Sequence[str], encode: Encode) -> bytes:
        """The same on the wire."""
        if self._wires is None:
            ways: tuple[tuple[Direction, list[End]], ...] = (("ingress", self.ingress), ("egress", self.egress))
            ends = [(way, end) for way, ends in ways for end in ends]
            encoded = [end.encoded(way, name, encode) for (way, end), name in zip(ends, names, strict=True)]
            self._wires = [piece for before, after in encoded for piece in (before, b"", after)]
        pieces = self._wires.copy()
        pieces[1::3] = map(str.encode, names)
        return b"".join(pieces)


def compares(end: End, keys: Collection[str]) -> bool:
    """Whether its rule compares one of these keys."""
    return any(key in keys for key in end.rule.within)


class _Pick(Protocol):
    def __call__(self, some: Sequence[T], /) -> tuple[T, ...]: ...


def _picking(indices: Sequence[int]) -> _Pick:
    if len(indices) > 1:
        return itemgetter(*indices)

    def few(some: Sequence[T]) -> tuple[T, ...]:
        return tuple([some[index] for index in indices])

    return few


@dataclass(slots=True, eq=False)
class Cut:
    """The boundaries of an instance in one direction, by their position, and what they name at the other end."""

    boundaries: frozenset[int]
    entering: bool
    selectors: tuple[Selector, ...]


@dataclass(slots=True, eq=False)
class Scope:
    """What narrows a target to a group: tags that must be carried, and boundaries. `open` are those of the boundaries
    that may name somebody with such tags. `groups` are those that were made."""

    within: Pairs
    cut: Cut
    open: frozenset[int]
    text: str
    groups: dict[Hashable, Remote] = field(default_factory=dict)

    @classmethod
    def of(cls, within: Pairs, cut: Cut) -> Scope:
        carried = dict(within)
        left = [
            number
            for number, selector in zip(sorted(cut.boundaries), cut.selectors, strict=True)
            if selector.peer is None and all(carried.get(key, value) == value for key, value in selector.tags.pairs)
        ]
        cuts = sorted({(s.tags.pairs, s.workload or "", s.peer or "") for s in cut.selectors})
        return cls(within, cut, frozenset(left), f"{within!r}, {cuts!r}")


class GroupMaker(Protocol):
    """Knows what one policy means."""

    def scope(self, at: Coordinates, cut: Cut, keys: tuple[str, ...]) -> Scope:
        """Of the keys that a rule compares."""
        ...

    def make(self, name: str, target: Target, scope: Scope, cover: Cover | None) -> Remote:
        """The group of a meaning that had none."""
        ...


@dataclass(slots=True, eq=False)
class Context:
    """What targets mean to some instances in one direction. `at` is what those have in common."""

    at: Coordinates
    cut: Cut
    cover: Kind | None
    scopes: dict[tuple[str, ...], Scope] = field(default_factory=dict)

    def group(self, target: Target, maker: GroupMaker) -> Remote:
        scope = self.scopes.get(target.within)
        if scope is None:
            scope = self.scopes[target.within] = maker.scope(self.at, self.cut, target.within)
        number = target.named.number
        cover = (target.ports, self.cover) if self.cover is not None and target.table is not None else None
        key: Hashable = number if cover is None else (number, cover)
        group = scope.groups.get(key)
        if group is None:
            group = scope.groups[key] = maker.make(_name(target, scope, cover), target, scope, cover)
        return group


def _name(target: Target, scope: Scope, cover: Cover | None) -> str:
    """A digest of what a group means, whoever is in it."""
    more = f", {cover[0]!r}, {cover[1].pairs!r}" if cover is not None else ""
    return hashlib.sha256(f"({target.named.text}, {scope.text}{more})".encode()).hexdigest()[:12]


class Surroundings:
    """What some instances find around them: the groups that ends of rules mean to them, and the names of those, both by
    the index of ends. `lacking` are the keys that rules compare and that these instances have no value of."""

    __slots__ = ("_incoming", "_met", "_outgoing", "groups", "lacking", "names")

    def __init__(self, size: int, incoming: Context, outgoing: Context, lacking: tuple[str, ...]) -> None:
        self._incoming, self._outgoing, self.lacking = incoming, outgoing, lacking
        self.groups = [NO_GROUP] * size
        self.names = [""] * size
        self._met: set[Both] = set()

    def meet(self, shape: Shape, maker: GroupMaker) -> None:
        """The groups of its ends are there after that."""
        for both in shape.named:
            if both not in self._met:
                self._met.add(both)
                self._find(both.ingress, self._incoming, maker)
                self._find(both.egress, self._outgoing, maker)

    def _find(self, ends: Iterable[End], context: Context, maker: GroupMaker) -> None:
        groups, names, lacking = self.groups, self.names, self.lacking
        for end in ends:
            if not names[end.index] and not (lacking and compares(end, lacking)):
                group = groups[end.index] = context.group(end.target, maker)
                names[end.index] = group.name

    def entries(self, ends: Iterable[End]) -> tuple[Entry, ...]:
        return tuple([end.entry(self.names[end.index]) for end in ends])


@dataclass(slots=True, eq=False)
class Instantiated:
    """An instance and its entries."""

    name: str
    process: Process | None
    stance: Stance
    shape: Shape
    around: Surroundings

    def value(self) -> LocalWorkload:
        shape, around = self.shape, self.around
        return replace(self.bare(), ingress=around.entries(shape.ingress), egress=around.entries(shape.egress))

    def bare(self) -> LocalWorkload:
        """Without its entries."""
        s = self.stance
        return LocalWorkload(self.name, self.process, s.mode, outgoing=s.outgoing, incoming=s.incoming)

    def encoded(self, encode: Encode) -> Encoded:
        return self.bare(), self.shape.wire(self.shape.pick(self.around.names), encode)


@dataclass(slots=True, eq=False)
class Source:
    """Implements segctl.policy.body.RulesSource. `essentials` is their canonical text."""

    essentials: str
    made: Sequence[Instantiated]

    def workloads(self) -> tuple[LocalWorkload, ...]:
        return tuple([w.value() for w in self.made])

    def text(self) -> str:
        pieces = [self.essentials]
        for w in self.made:
            pieces += ["\n", w.stance.head(w.name, w.process)]
            pieces += w.shape.lines(w.shape.pick(w.around.names))
        return "".join(pieces)

    def names(self) -> frozenset[str]:
        shapes = [w.shape for w in self.made]
        return frozenset([end.rule.name for shape in shapes for end in (*shape.ingress, *shape.egress)])

    def encoded(self, encode: Encode) -> list[Encoded]:
        return [w.encoded(encode) for w in self.made]
