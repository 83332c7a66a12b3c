"""What hosts with the same tags have in common: their instances, and the entries that a policy gives each of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import ceil
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

from segctl.model.hostpolicy import Entry, LocalWorkload
from segctl.model.inventory import Host
from segctl.model.policy import (
    HOST_WORKLOAD,
    ModeRule,
    Network,
    Policy,
    PortRange,
    Process,
    Rule,
    Selector,
    Tags,
)
from segctl.policy.body import Encoded, Rules
from segctl.policy.decide import Direction, answer_among, ends_of, is_live, mode_among, peer_networks
from segctl.policy.digest import entry_terms, workload_head
from segctl.policy.networks import exclude
from segctl.policy.selectors import InstanceFinder, SelectorIndex, SpokenOf, coordinates

Meaning = tuple[tuple[tuple[str, str], ...], str | None, str | None]
"""Of a selector: tags, workload, peer."""


@dataclass(frozen=True, slots=True, eq=False)
class Local:
    """An instance as a profile has it. `at` are its coordinates; `leaving` and `entering` the boundaries, by their
    position, whose source and whose destination names it."""

    workload: str
    at: dict[str, str]
    leaving: frozenset[int]
    entering: frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """`tags` are those of its hosts that the policy speaks of."""

    tags: Tags
    locals: tuple[Local, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Remote:
    """What a group means: the hosts or the peer that `selector` names, that carry `within`, and that no boundary takes
    away. `cuts` are those boundaries by their position; `entering` tells that their destination names the remote.

    `cover` is there where a boundary may divide the workloads of one host: the ports and the local host's profile,
    which tell whether somebody could pass the boundary under the cover of the rule (`decide.crossing_boundary`).
    """

    selector: Selector
    within: Tags
    cuts: frozenset[int]
    entering: bool
    cut_selectors: tuple[Selector, ...]
    cover: tuple[tuple[PortRange, ...], Profile] | None

    @property
    def name(self) -> str:
        meaning: tuple[object, ...] = (
            self.selector.tags.pairs,
            self.selector.workload,
            self.selector.peer,
            self.within.pairs,
            sorted({(c.tags.pairs, c.workload or "", c.peer or "") for c in self.cut_selectors}),
        )
        if self.cover is not None:
            ports, profile = self.cover
            meaning = (*meaning, ports, profile.tags.pairs)
        return hashlib.sha256(repr(meaning).encode()).hexdigest()[:12]


class Named(Protocol):
    """A group, of which only the name counts here."""

    name: str


G = TypeVar("G", bound=Named)


@dataclass(slots=True, eq=False)
class End:
    """One end of a rule: what it takes to make entries of it. `mark` is an entry's text up to its group."""

    position: int
    rule: Rule
    theirs: Selector
    theirs_id: int
    until: int
    mark: str


@dataclass(slots=True, eq=False)
class Line(Generic[G]):
    """An entry, shared by all profiles that have it. `text` is its canonical one, `wire` what it was encoded to."""

    position: int
    end: End
    group: G
    text: str
    wire: bytes = b""

    def encoded(self, encode: Callable[[Entry], bytes]) -> bytes:
        self.wire = self.wire or encode(self.entry())
        return self.wire

    def entry(self) -> Entry:
        rule = self.end.rule
        return Entry(rule.name, self.group.name, rule.ports, self.end.theirs.peer is None, self.end.until)


@dataclass(slots=True, eq=False)
class _Workload(Generic[G]):
    """An instance and its entries, in the order of the rules."""

    local: Local
    process: Process | None
    modes: list[ModeRule]
    ingress: list[Line[G]]
    egress: list[Line[G]]

    def value(self) -> LocalWorkload:
        ingress, egress = (tuple([line.entry() for line in lines]) for lines in (self.ingress, self.egress))
        return replace(self.bare(), ingress=ingress, egress=egress)

    def bare(self) -> LocalWorkload:
        """Without its entries."""
        return LocalWorkload(
            name=self.local.workload,
            process=self.process,
            mode=mode_among(self.modes),
            outgoing=answer_among(self.modes, "egress"),
            incoming=answer_among(self.modes, "ingress"),
        )

    def texts(self) -> Iterator[str]:
        """As `digest.workload_text` of the value, in pieces."""
        answers = answer_among(self.modes, "egress"), answer_among(self.modes, "ingress")
        yield workload_head(self.local.workload, self.process, mode_among(self.modes), *answers)
        for line in (*self.ingress, *self.egress):
            yield line.text


@dataclass(slots=True, eq=False)
class _Source(Generic[G]):
    """Implements segctl.policy.body.RulesSource."""

    made: tuple[_Workload[G], ...]

    def workloads(self) -> tuple[LocalWorkload, ...]:
        return tuple(w.value() for w in self.made)

    def texts(self) -> Sequence[str]:
        return [text for w in self.made for text in w.texts()]

    def names(self) -> frozenset[str]:
        return frozenset([line.end.rule.name for w in self.made for line in (*w.ingress, *w.egress)])

    def encoded(self, encode: Callable[[Entry], bytes]) -> Sequence[Encoded]:
        return [
            (w.bare(), [line.encoded(encode) for line in w.ingress], [line.encoded(encode) for line in w.egress])
            for w in self.made
        ]


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """The boundaries of a local instance in one direction; see Remote."""

    boundaries: frozenset[int]
    entering: bool
    selectors: tuple[Selector, ...]
    id: int
    cover: Profile | None


class ProfileMaker(Generic[G]):
    """Of one policy. `now` decides which rules have ended; `make` makes the group of a new meaning. `groups` are those
    that were made, by what tells their meanings apart."""

    def __init__(self, policy: Policy, now: datetime, make: Callable[[Remote], G]) -> None:
        self._policy, self._make = policy, make
        self.groups: dict[tuple[object, ...], G] = {}
        self._lines: dict[tuple[object, ...], tuple[list[Line[G]], set[G]]] = {}
        self._ids: dict[object, int] = {}
        self._ends: dict[Direction, SelectorIndex[End]] = {"ingress": SelectorIndex(), "egress": SelectorIndex()}
        self._leaving: SelectorIndex[int] = SelectorIndex()
        self._entering: SelectorIndex[int] = SelectorIndex()
        self._modes: SelectorIndex[ModeRule] = SelectorIndex()
        self._instances = InstanceFinder(policy)
        for position, rule in enumerate(r for r in policy.rules if is_live(r, now)):
            self._add_rule(position, rule)
        for number, boundary in enumerate(policy.boundaries):
            self._leaving.add(number, boundary.source)
            self._entering.add(number, boundary.destination)
        for mode in policy.modes:
            self._modes.add(mode, mode.select)
        self._spoken = SpokenOf.of((policy,), policy.rules)
        self._within = tuple(sorted(self._spoken.keys))
        self._dividing = any(w.tags.pairs for w in policy.workloads.values())

    def _add_rule(self, position: int, rule: Rule) -> None:
        until = ceil(rule.until.timestamp()) if rule.until is not None else 0  # whole seconds are what a policy can say
        for direction, index in self._ends.items():
            mine, theirs = ends_of(direction, rule)
            way = "in" if direction == "ingress" else "out"
            mark = entry_terms(way, rule.name, rule.ports, theirs.peer is None, until)
            index.add(End(position, rule, theirs, self._id(_meaning(theirs)), until, mark), mine)

    def _id(self, meaning: object) -> int:
        """Equal for equal meanings, and quicker to hash."""
        return self._ids.setdefault(meaning, len(self._ids))

    def relevant(self, tags: Tags) -> Tags:
        """Without those that the policy does not speak of."""
        return self._spoken.among(tags)

    def profile(self, tags: Tags) -> Profile:
        found = []
        for instance in self._instances.of(Host("", tags)):
            at = coordinates(instance.tags, instance.workload)
            leaving, entering = frozenset(self._leaving.find(at)), frozenset(self._entering.find(at))
            found.append(Local(instance.workload, at, leaving, entering))
        return Profile(tags, tuple(found))

    def rules(self, profile: Profile) -> tuple[Rules, set[G]]:
        """The entries of a profile, and the groups that they need: new ones are made for those that had none."""
        groups: set[G] = set()
        made = [
            _Workload(
                local,
                self._process(local),
                self._modes.find(local.at),
                self._entries(profile, local, "ingress", local.entering, groups),
                self._entries(profile, local, "egress", local.leaving, groups),
            )
            for local in profile.locals
        ]
        return Rules(self._policy.essentials, _Source(tuple(made))), groups

    def _entries(
        self, profile: Profile, local: Local, direction: Direction, cuts: frozenset[int], groups: set[G]
    ) -> list[Line[G]]:
        buckets = self._ends[direction].buckets(local.at)
        if not buckets:
            return []
        selectors = tuple([ends_of(direction, self._policy.boundaries[n])[1] for n in sorted(cuts)])
        cuts_id = self._id(frozenset(map(_meaning, selectors))) if cuts else -1
        cover = profile if direction == "ingress" and self._divides(selectors) else None
        within = tuple(map(local.at.get, self._within))
        lines: list[Line[G]] = []
        for bucket in buckets:
            # What selects alike gives the same entries to whoever has the same tags to compare.
            key = (id(bucket), within, cuts_id, cover)
            known = self._lines.get(key)
            if known is None:
                cut = _Cut(cuts, direction == "egress", selectors, cuts_id, cover)
                made = self._made(bucket, local.at, cut)
                known = self._lines[key] = (made, {line.group for line in made})
            lines += known[0]
            groups |= known[1]
        lines.sort(key=_position)
        return lines

    def _made(self, ends: Iterable[End], at: dict[str, str], cut: _Cut) -> list[Line[G]]:
        """The entries of ends that name an instance with these coordinates."""
        lines: list[Line[G]] = []
        carried: dict[tuple[str, ...], tuple[Tags, int] | None] = {(): (Tags(), -1)}
        for end in ends:
            keys = end.rule.within
            if keys not in carried:
                pairs = [(k, v) for k in keys if (v := at.get(k)) is not None]
                carried[keys] = (Tags.of(pairs), self._id(tuple(pairs))) if len(pairs) == len(keys) else None
            within = carried[keys]
            if within is None:
                continue  # a relational rule never applies to an instance without the tag
            cover = (end.rule.ports, cut.cover) if cut.cover is not None and end.theirs.peer is None else None
            key = (end.theirs_id, within[1], cut.id, cover)
            group = self.groups.get(key)
            if group is None:
                remote = Remote(end.theirs, within[0], cut.boundaries, cut.entering, cut.selectors, cover)
                group = self.groups[key] = self._make(remote)
            lines.append(Line(end.position, end, group, end.mark + group.name))
        return lines

    def _divides(self, cuts: Sequence[Selector]) -> bool:
        """Whether one of these boundaries may name some workloads of a host and not the others."""
        return any(c.workload is not None for c in cuts) or (bool(cuts) and self._dividing)

    def names(self, remote: Remote, local: Local) -> bool:
        """Whether `local`, which the selector and `within` name, is not taken away by a boundary."""
        return remote.cuts.isdisjoint(local.entering if remote.entering else local.leaving)

    def crosses(self, remote: Remote, profile: Profile) -> bool:
        """Whether a process of such a host could pass one of the boundaries under the cover of the rule."""
        if remote.cover is None:
            return False
        ports, here = remote.cover
        return any(not self.names(remote, other) and self._could_call(other, here, ports) for other in profile.locals)

    def _could_call(self, source: Local, host: Profile, ports: Sequence[PortRange]) -> bool:
        """As `decide.could_call`, of profiles."""
        return any(
            any(p.overlaps(q) for p in end.rule.ports for q in ports)
            and any(
                _selects(end.theirs, other)
                and all(source.at.get(k) is not None and source.at.get(k) == other.at.get(k) for k in end.rule.within)
                and source.leaving.isdisjoint(other.entering)
                for other in host.locals
            )
            for end in self._ends["egress"].find(source.at)
        )

    def networks(self, remote: Remote) -> tuple[Network, ...]:
        """Of a remote that is a peer, without what boundaries take away."""
        holes = [n for c in remote.cut_selectors if c.peer is not None for n in peer_networks(self._policy, c.peer)]
        return exclude(peer_networks(self._policy, remote.selector.peer or ""), holes)

    def _process(self, local: Local) -> Process | None:
        return self._policy.workloads[local.workload].process if local.workload != HOST_WORKLOAD else None


_position = attrgetter("position")


def _meaning(selector: Selector) -> Meaning:
    return selector.tags.pairs, selector.workload, selector.peer


def _selects(selector: Selector, local: Local) -> bool:
    """As `decide.selects`."""
    if selector.peer is not None or selector.workload not in (None, local.workload):
        return False
    return all(local.at.get(k) == v for k, v in selector.tags.pairs)
