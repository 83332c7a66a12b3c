"""The entries that rules make for an instance, worked out for many at once.

What an instance is told depends on two things. Which rules name it, in their order, is its *shape*: hosts of one role
have it in common, whatever their environment. What the other ends of those rules mean to it (`Context`) depends on the
tags that rules compare and on the boundaries that cut it: an environment has that in common, whatever the role. So an
entry is never made before it is sent: its text is a piece of the shape and the name of a group of the context.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from operator import add, attrgetter, itemgetter
from typing import Protocol, TypeVar

from segctl.model.hostpolicy import Entry, LocalWorkload
from segctl.model.policy import PortRange, Process, Rule, Selector
from segctl.policy.body import Encoded
from segctl.policy.cohorts import NO_GROUP, Cover, Kind, Remote, Stance, Table
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
    """One end of a rule. `mark` is an entry's canonical text up to its group."""

    position: int
    rule: Rule
    target: Target
    until: int
    mark: str


class Ends:
    """In the order of the rules. `marks` are those of the ends; `pick` takes what belongs to their targets from a list
    by the index of targets."""

    __slots__ = ("ends", "marks", "pick")

    def __init__(self, ends: Iterable[End]) -> None:
        self.ends = sorted(ends, key=_position)
        self.marks = [end.mark for end in self.ends]
        self.pick = _picking([end.target.index for end in self.ends])


_position = attrgetter("position")


class _Pick(Protocol):
    def __call__(self, some: Sequence[T], /) -> tuple[T, ...]: ...


def _picking(indices: Sequence[int]) -> _Pick:
    if len(indices) > 1:
        return itemgetter(*indices)

    def few(some: Sequence[T]) -> tuple[T, ...]:
        return tuple([some[index] for index in indices])

    return few


@dataclass(slots=True, eq=False)
class Both:
    """Ends of rules by direction, each in the order of the rules."""

    ingress: list[End] = field(default_factory=list)
    egress: list[End] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Shape:
    """The ends of all rules that name an instance."""

    ingress: Ends
    egress: Ends

    @classmethod
    def of(cls, named: Sequence[Both], lacking: Collection[str]) -> Shape:
        """Without rules that compare keys of which it has no value: a relational rule never applies to an instance
        without the tag."""
        ingress = [end for both in named for end in both.ingress]
        egress = [end for both in named for end in both.egress]
        if lacking:
            ingress, egress = (
                [end for end in ends if not any(key in lacking for key in end.rule.within)]
                for ends in (ingress, egress)
            )
        return cls(Ends(ingress), Ends(egress))


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


class Context:
    """What targets mean to some instances: groups, made when they are asked for, and their names, both by the index of
    targets. `at` is what those instances have in common."""

    __slots__ = ("_at", "_cover", "_cut", "_groups", "_scopes", "_wires", "names")

    def __init__(self, targets: int, at: Coordinates, cut: Cut, cover: Kind | None) -> None:
        self._groups: list[Remote] = [NO_GROUP] * targets
        self.names = [""] * targets
        self._at, self._cut, self._cover = at, cut, cover
        self._scopes: dict[tuple[str, ...], Scope] = {}
        self._wires: dict[End, bytes] = {}  # entries, as they were encoded

    def groups(self, ends: Ends, maker: GroupMaker) -> tuple[Remote, ...]:
        if not all(ends.pick(self.names)):
            for end in ends.ends:
                if not self.names[end.target.index]:
                    self._find(end.target, maker)
        return ends.pick(self._groups)

    def _find(self, target: Target, maker: GroupMaker) -> None:
        scope = self._scopes.get(target.within)
        if scope is None:
            scope = self._scopes[target.within] = maker.scope(self._at, self._cut, target.within)
        number = target.named.number
        cover = (target.ports, self._cover) if self._cover is not None and target.table is not None else None
        key: Hashable = number if cover is None else (number, cover)
        group = scope.groups.get(key)
        if group is None:
            group = scope.groups[key] = maker.make(_name(target, scope, cover), target, scope, cover)
        self._groups[target.index], self.names[target.index] = group, group.name

    def entries(self, ends: Ends) -> tuple[Entry, ...]:
        return tuple([self._entry(end) for end in ends.ends])

    def encoded(self, ends: Ends, encode: Callable[[Entry], bytes]) -> list[bytes]:
        wires = self._wires
        for end in ends.ends:
            if end not in wires:
                wires[end] = encode(self._entry(end))
        return [wires[end] for end in ends.ends]

    def _entry(self, end: End) -> Entry:
        target = end.target
        return Entry(end.rule.name, self.names[target.index], end.rule.ports, target.table is not None, end.until)


def _name(target: Target, scope: Scope, cover: Cover | None) -> str:
    """A digest of what a group means, whoever is in it."""
    more = f", {cover[0]!r}, {cover[1].pairs!r}" if cover is not None else ""
    return hashlib.sha256(f"({target.named.text}, {scope.text}{more})".encode()).hexdigest()[:12]


@dataclass(slots=True, eq=False)
class Surroundings:
    """What an instance finds around it: of its incoming and its outgoing entries. `lacking` are the keys that rules
    compare and that it has no value of."""

    incoming: Context
    outgoing: Context
    lacking: tuple[str, ...]


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
        ingress, egress = around.incoming.entries(shape.ingress), around.outgoing.entries(shape.egress)
        return replace(self.bare(), ingress=ingress, egress=egress)

    def bare(self) -> LocalWorkload:
        """Without its entries."""
        s = self.stance
        return LocalWorkload(self.name, self.process, s.mode, outgoing=s.outgoing, incoming=s.incoming)

    def encoded(self, encode: Callable[[Entry], bytes]) -> Encoded:
        shape, around = self.shape, self.around
        return (
            self.bare(),
            around.incoming.encoded(shape.ingress, encode),
            around.outgoing.encoded(shape.egress, encode),
        )


@dataclass(slots=True, eq=False)
class Source:
    """Implements segctl.policy.body.RulesSource. `essentials` is their canonical text."""

    essentials: str
    made: Sequence[Instantiated]

    def workloads(self) -> tuple[LocalWorkload, ...]:
        return tuple([w.value() for w in self.made])

    def texts(self) -> list[str]:
        texts = [self.essentials]
        for w in self.made:
            texts.append(w.stance.head(w.name, w.process))
            for ends, context in ((w.shape.ingress, w.around.incoming), (w.shape.egress, w.around.outgoing)):
                texts += map(add, ends.marks, ends.pick(context.names))
        return texts

    def names(self) -> frozenset[str]:
        shapes = [w.shape for w in self.made]
        return frozenset([end.rule.name for shape in shapes for end in (*shape.ingress.ends, *shape.egress.ends)])

    def encoded(self, encode: Callable[[Entry], bytes]) -> list[Encoded]:
        return [w.encoded(encode) for w in self.made]
