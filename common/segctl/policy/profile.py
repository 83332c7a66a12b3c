"""What hosts with the same tags have in common: their instances, and the entries that a policy gives each of them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from datetime import datetime
from math import ceil
from typing import Literal

from segctl.model.hostpolicy import Group
from segctl.model.policy import HOST_WORKLOAD, Answer, Mode, Network, Policy, PortRange, Rule, Selector, Tags
from segctl.policy.body import Members, Rules
from segctl.policy.cohorts import Cohort, CohortIndex, Cover, Guard, Kind, Local, Profile, Remote, Stance
from segctl.policy.decide import Direction, answer_among, ends_of, is_live, mode_among, peer_networks
from segctl.policy.digest import entry_terms, essentials_text, services_text
from segctl.policy.entries import (
    Both,
    Context,
    Cut,
    End,
    Instantiated,
    Meaning,
    Named,
    Pairs,
    Scope,
    Shape,
    Source,
    Surroundings,
    Target,
    meaning_of,
)
from segctl.policy.networks import exclude
from segctl.policy.selectors import Coordinates, InstanceFinder, SelectorIndex, SpokenOf, coordinates, picker

STEP = 64
"""Rules between two steps of `reading`."""
_Says = Literal["leaving", "entering", "mode"]


class ProfileMaker:
    """Of one policy. `now` decides which rules have ended. `reading` comes first."""

    def __init__(self, policy: Policy, now: datetime) -> None:
        self._policy, self._now = policy, now
        self.cohorts = CohortIndex()
        self._named: dict[Meaning, tuple[Named, Both | None]] = {}
        self._targets: dict[tuple[int, tuple[str, ...], tuple[PortRange, ...]], Target] = {}
        self._ends: SelectorIndex[Both] = SelectorIndex()
        self._shapes: dict[tuple[object, ...], Shape] = {}
        self._scopes: dict[tuple[Pairs, frozenset[Meaning]], Scope] = {}
        self._arounds: dict[tuple[object, ...], Surroundings] = {}
        self._said: SelectorIndex[tuple[_Says, int]] = SelectorIndex()
        self._stances: dict[tuple[Mode, Answer, Answer], Stance] = {}
        self._guards: dict[tuple[int, ...], Guard] = {}
        self._instances = InstanceFinder(policy)
        self._spoken = SpokenOf.of((policy,), policy.rules)
        self._within = tuple(sorted(self._spoken.keys))
        self._compared = picker(self._within)
        self._essentials = essentials_text(policy.essentials)
        self._tagging = any(w.tags.pairs for w in policy.workloads.values())
        self._dividing = any(self._divides((b.source,)) for b in policy.boundaries)

    def reading(self) -> Generator[None, None, None]:
        """Takes the policy in, in steps."""
        for number, boundary in enumerate(self._policy.boundaries):
            self._said.add(("leaving", number), boundary.source)
            self._said.add(("entering", number), boundary.destination)
        for number, mode in enumerate(self._policy.modes):
            self._said.add(("mode", number), mode.select)
        for position, rule in enumerate(r for r in self._policy.rules if is_live(r, self._now)):
            self._add_rule(position, rule)
            if position % STEP == 0:
                yield

    def _add_rule(self, position: int, rule: Rule) -> None:
        until = ceil(rule.until.timestamp()) if rule.until is not None else 0  # whole seconds are what a policy can say
        services = services_text(rule.ports)
        (source, mine), (destination, theirs) = self._name(rule.source), self._name(rule.destination)
        if theirs is not None:
            mark = "\n" + entry_terms("in", rule.name, services, mine is not None, until)
            target = self._target(source, rule)
            theirs.ingress.append(End(position, rule, target, 2 * target.index, until, mark))
        if mine is not None:
            mark = "\n" + entry_terms("out", rule.name, services, theirs is not None, until)
            target = self._target(destination, rule)
            mine.egress.append(End(position, rule, target, 2 * target.index + 1, until, mark))

    def _name(self, selector: Selector) -> tuple[Named, Both | None]:
        """And the ends of rules that are its own; a peer has none."""
        meaning = meaning_of(selector)
        found = self._named.get(meaning)
        if found is None:
            at = coordinates(selector.tags, selector.workload)
            own = Both() if selector.peer is None else None
            if own is not None:
                self._ends.add(own, selector)
            found = self._named[meaning] = Named(selector, at, len(self._named), repr(meaning)[1:-1]), own
        return found

    def _target(self, named: Named, rule: Rule) -> Target:
        key = (named.number, rule.within, rule.ports if self._dividing else ())
        target = self._targets.get(key)
        if target is None:
            table = self.cohorts.table((*named.at, *rule.within)) if named.selector.peer is None else None
            target = self._targets[key] = Target(len(self._targets), named, rule.within, key[2], table)
        return target

    def relevant(self, tags: Tags) -> Pairs:
        """Without those that the policy does not speak of."""
        return self._spoken.pairs_among(tags)

    def profile(self, pairs: Pairs) -> Profile:
        """A new one, in its cohorts."""
        found = []
        for name, tags in self._instances.on(Tags(pairs)):
            at = coordinates(tags, name)
            found.append(Local(name, at, self._guard(at)))
        return self.cohorts.enter(Kind(pairs, tuple(found)), self._crosses)

    def _guard(self, at: Coordinates) -> Guard:
        buckets = self._said.buckets(at)
        key = tuple(map(id, buckets))  # the index keeps its lists for good
        guard = self._guards.get(key)
        if guard is None:
            said = [statement for bucket in buckets for statement in bucket]
            modes = [self._policy.modes[number] for way, number in said if way == "mode"]
            what = mode_among(modes), answer_among(modes, "egress"), answer_among(modes, "ingress")
            stance = self._stances.setdefault(what, Stance(*what))
            leaving, entering = (frozenset(n for w, n in said if w == way) for way in ("leaving", "entering"))
            guard = self._guards[key] = Guard(leaving, entering, stance)
        return guard

    def rules(self, profile: Profile) -> tuple[Rules, set[Remote]]:
        """The entries of a profile, and the groups that they need: new ones are made for those that had none. Their
        members are right once the profiles that there are have entered the cohorts, and those have settled."""
        made, groups, workloads = [], set[Remote](), self._policy.workloads
        for local in profile.kind.locals:
            around = self._around(profile.kind, local)
            shape = self._shape(local.at, around.lacking)
            around.meet(shape, self)
            groups.update(shape.pick(around.groups))
            process = workloads[local.workload].process if local.workload != HOST_WORKLOAD else None
            made.append(Instantiated(local.workload, process, local.guard.stance, shape, around))
        return Rules(self._policy.essentials, Source(self._essentials, made)), groups

    def _shape(self, at: Coordinates, lacking: tuple[str, ...]) -> Shape:
        buckets = self._ends.buckets(at)
        key = (lacking, *map(id, buckets))  # the index keeps its lists for good
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = Shape([both for bucket in buckets for both in bucket], lacking)
        return shape

    def _around(self, kind: Kind, local: Local) -> Surroundings:
        at, guard = local.at, local.guard
        key = (self._compared(at), guard, kind if self._dividing else None)
        found = self._arounds.get(key)
        if found is None:
            incoming, outgoing = self._cut("ingress", guard.entering), self._cut("egress", guard.leaving)
            cover = kind if self._divides(incoming.selectors) else None
            lacking = tuple([k for k in self._within if at[k] is None])
            ways = Context(at, incoming, cover), Context(at, outgoing, None)
            found = self._arounds[key] = Surroundings(2 * len(self._targets), *ways, lacking)
        return found

    def _cut(self, direction: Direction, cuts: frozenset[int]) -> Cut:
        selectors = [ends_of(direction, self._policy.boundaries[number])[1] for number in sorted(cuts)]
        return Cut(cuts, direction == "egress", tuple(selectors))

    def scope(self, at: Coordinates, cut: Cut, keys: tuple[str, ...]) -> Scope:
        within = Tags.of((key, at[key]) for key in keys).pairs
        meaning = within, frozenset(map(meaning_of, cut.selectors))
        if meaning not in self._scopes:
            self._scopes[meaning] = Scope.of(within, cut)
        return self._scopes[meaning]

    def make(self, name: str, target: Target, scope: Scope, cover: Cover | None) -> Remote:
        selector, table = target.named.selector, target.table
        if table is None:
            group = Group(name, self._networks(selector.peer or "", scope.cut.selectors))
            return Remote(name, True, Members.of(group))
        made, at = Remote(name, False), target.named.at.copy()
        for key, value in scope.within:
            if at.setdefault(key, value) != value:
                made.members = Members.of(Group(name))  # nobody carries both
                return made
        cuts = scope.open if cover is None else scope.cut.boundaries
        self.cohorts.give(made, table, at, (cuts, scope.cut.entering, cover), self._crosses)
        return made

    def _divides(self, cuts: Sequence[Selector]) -> bool:
        """Whether one of these boundaries may name some workloads of a host and not the others."""
        return any(c.workload is not None for c in cuts) or (bool(cuts) and self._tagging)

    def _crosses(self, cohort: Cohort, kind: Kind) -> bool:
        if cohort.cover is None:
            return False
        ports, here = cohort.cover
        return any(not cohort.spares(other) and self._could_call(other, here, ports) for other in kind.locals)

    def _could_call(self, source: Local, host: Kind, ports: Sequence[PortRange]) -> bool:
        """As `decide.could_call`."""
        return any(
            any(p.overlaps(q) for p in end.rule.ports for q in ports)
            and any(
                _selects(end.target.named.selector, other)
                and all(source.at.get(k) is not None and source.at.get(k) == other.at.get(k) for k in end.rule.within)
                and source.guard.leaving.isdisjoint(other.guard.entering)
                for other in host.locals
            )
            for named in self._ends.find(source.at)
            for end in named.egress
        )

    def _networks(self, peer: str, cuts: Sequence[Selector]) -> tuple[Network, ...]:
        """Without what boundaries take away."""
        holes = [n for c in cuts if c.peer is not None for n in peer_networks(self._policy, c.peer)]
        return exclude(peer_networks(self._policy, peer), holes)


def _selects(selector: Selector, local: Local) -> bool:
    """As `decide.selects`."""
    if selector.peer is not None or selector.workload not in (None, local.workload):
        return False
    return all(local.at.get(k) == v for k, v in selector.tags.pairs)
