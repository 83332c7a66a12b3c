"""The semantic difference of two policies over one inventory: tuples that become allowed or denied, modes that change.

Hosts with the same tags have the same workloads and rights, so the difference is taken between *nodes*: a workload of
a tag tuple, or a network of a peer. It is driven by rules: only pairs that some rule names are looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from segctl.model.inventory import Host, Inventory
from segctl.model.policy import HOST_WORKLOAD, Answer, Mode, Network, Policy, PortRange, Rule, Selector, Tags
from segctl.policy.decide import (
    ESSENTIAL_ICMPV6,
    Direction,
    Instance,
    crossing_boundary,
    cutting_boundary,
    effective_answer,
    effective_mode,
    ends_of,
    is_live,
    peer_networks,
    receives,
    selects,
)
from segctl.policy.networks import exclude
from segctl.policy.ports import PortIndex, Ports, intersect, normalize, subtract
from segctl.policy.propose import service_name
from segctl.policy.selectors import InstanceFinder, Population, SpokenOf


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """One end of a tuple: a workload of the hosts with these tags, or a network of a peer."""

    workload: str = ""
    tags: Tags = Tags()  # noqa: RUF009 - frozen
    peer: str = ""
    network: str = ""
    host_tags: Tags = Tags()  # noqa: RUF009 - frozen

    def __str__(self) -> str:
        return f"peer {self.peer} ({self.network})" if self.peer else f"{self.workload} [{self.tags}]"


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """`service` from `source` to `destination` becomes allowed, or denied. `rule` is one that allows it (after or
    before); `hosts` the enrolled hosts at either end, sorted."""

    allowed: bool
    source: str
    destination: str
    service: str
    rule: str
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class ModeChange:
    """`before` and `after` are modes, with the answers where they differ from the defaults; `-` is no such workload."""

    host: str
    workload: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class PolicyDiff:
    changes: tuple[Change, ...]
    modes: tuple[ModeChange, ...]


@dataclass(frozen=True, slots=True)
class Permission:
    """Ports permitted between two nodes, each with the rules that permit them at either end."""

    ports: Ports
    rules: tuple[tuple[PortRange, str], ...]


MANY = 20_000
"""Pairs of classes of hosts by all their tags; beyond it only the tags count that are spoken of."""
_ALWAYS = tuple(PortRange("icmpv6", t, t) for t in sorted(ESSENTIAL_ICMPV6))
"""What passes whatever the policy says is no change of it."""

Matrix = Mapping[tuple[Node, Node], Permission]


def diff_policies(before: Policy, after: Policy, inventory: Inventory, now: datetime) -> PolicyDiff:
    """What changes for the enrolled hosts when `after` replaces `before`."""
    rules = _in_question(before, after, now)
    spoken = SpokenOf.of((before, after), [r for some in rules for r in some])
    classes = _classes((before, after), inventory, spoken if _many_pairs(rules, inventory) else None)
    old, new = (_matrix(p, classes, now, r) for p, r in zip((before, after), rules, strict=True))
    names = {one.stand_in: one.hosts for one in classes}
    nothing = Permission((), ())
    changes: list[Change] = []
    for pair in sorted(p for p in old.keys() | new.keys() if old.get(p, nothing).ports != new.get(p, nothing).ports):
        was, will = old.get(pair, nothing), new.get(pair, nothing)
        hosts = tuple(sorted({n for node in pair if not node.peer for n in names[node.host_tags]}))
        for policy, allowed, gained, permission in (
            (after, True, subtract(will.ports, was.ports), will),
            (before, False, subtract(was.ports, will.ports), was),
        ):
            changes += [
                Change(
                    allowed,
                    str(pair[0]),
                    str(pair[1]),
                    service_name(policy, port),
                    next((r for p, r in permission.rules if p.overlaps(port)), ""),
                    hosts,
                )
                for port in subtract(gained, _ALWAYS)
            ]
    return PolicyDiff(tuple(changes), _modes(before, after, inventory))


def _in_question(before: Policy, after: Policy, now: datetime) -> tuple[list[Rule], list[Rule]]:
    """The live rules of both without which the difference is the same. Where only rules changed, those are the changed
    ones and what speaks of the same services: the others permit the same before and after."""
    old, new = ([r for r in p.rules if is_live(r, now)] for p in (before, after))
    same = (before.workloads, before.peers, before.boundaries) == (after.workloads, after.peers, after.boundaries)
    if not same:
        return old, new
    known, wanted = ({_meaning(r) for r in rules} for rules in (old, new))
    ports = {
        p for rules, other in ((old, wanted), (new, known)) for r in rules if _meaning(r) not in other for p in r.ports
    }
    while True:
        overlapping = PortIndex(ports)
        chosen = [[r for r in rules if any(overlapping.overlaps(p) for p in r.ports)] for rules in (old, new)]
        # A rule may cover for another one that has a service with it in common (`crossing_boundary`).
        more = {p for rules in chosen for r in rules for p in r.ports} if before.boundaries else ports
        if more <= ports:
            return chosen[0], chosen[1]
        ports |= more


def _meaning(rule: Rule) -> tuple[object, ...]:
    return rule.source, rule.destination, rule.within, rule.ports


def _many_pairs(rules: Iterable[Sequence[Rule]], inventory: Inventory) -> bool:
    """Whether classes by all their tags would make more pairs than anybody reads."""
    tags = {host.tags for host in inventory.hosts.values()}
    if len(tags) ** 2 <= MANY:
        return False
    everyone = Population(Instance("", HOST_WORKLOAD, t, t) for t in tags)

    def count(selector: Selector) -> int:
        return len(everyone.named(Selector(selector.tags))) if selector.peer is None else 1

    return sum(count(r.source) * count(r.destination) for some in rules for r in some) > MANY


@dataclass(frozen=True, slots=True)
class _Class:
    """Hosts alike: `tags` are those by which they are, `stand_in` all tags of one of them."""

    tags: Tags
    stand_in: Tags
    hosts: list[str]


def _classes(policies: Iterable[Policy], inventory: Inventory, spoken: SpokenOf | None) -> list[_Class]:
    """By all tags; or by those that are spoken of, and by the workloads that live there."""
    if spoken is None:
        return [_Class(tags, tags, hosts) for tags, hosts in _names(inventory).items()]
    finders = [InstanceFinder(policy) for policy in policies]
    classes: dict[tuple[object, ...], _Class] = {}
    for tags, hosts in _names(inventory).items():
        kept = spoken.among(tags)
        workloads = [tuple(i.workload for i in finder.of(Host("", tags))) for finder in finders]
        classes.setdefault((kept, *workloads), _Class(kept, tags, [])).hosts.extend(hosts)
    return list(classes.values())


def matrix(policy: Policy, inventory: Inventory, now: datetime) -> Matrix:
    """Every permitted tuple of the fleet: the communication matrix."""
    classes = _classes((policy,), inventory, None)
    return _matrix(policy, classes, now, [r for r in policy.rules if is_live(r, now)])


def _matrix(policy: Policy, classes: Iterable[_Class], now: datetime, rules: Sequence[Rule]) -> Matrix:
    """What these rules permit."""
    if not rules:
        return {}
    finder = InstanceFinder(policy)
    profiles = {one.stand_in: finder.of(Host(one.hosts[0], one.stand_in)) for one in classes}
    known = {one.stand_in: one.tags for one in classes}
    nodes = {
        i: Node(i.workload, _shown(policy, i, known[tags]), host_tags=tags)
        for tags, profile in profiles.items()
        for i in profile
    }
    live = [r for r in policy.rules if is_live(r, now)]
    fleet = _Fleet(policy, live, profiles, Population(i for profile in profiles.values() for i in profile))
    egress = fleet.ends(rules, "egress")
    ingress = fleet.ends(rules, "ingress")
    out: dict[tuple[Node, Node], Permission] = {}
    for (local, remote), rights in egress.items():
        if isinstance(remote, Node):
            out[(nodes[local], remote)] = _permission(rights)
            continue
        for other in profiles[remote]:
            back = ingress.get((other, nodes[local].host_tags), [])
            both = _meet(rights, back)
            if both.ports:
                out[(nodes[local], nodes[other])] = both
    for (local, remote), rights in ingress.items():
        if isinstance(remote, Node):
            out[(remote, nodes[local])] = _permission(rights)
    return out


def _shown(policy: Policy, instance: Instance, tags: Tags) -> Tags:
    """The tags of an instance whose host is told by these."""
    if tags == instance.host_tags:
        return instance.tags
    return tags.merged(policy.workloads[instance.workload].tags) if instance.workload != HOST_WORKLOAD else tags


Rights = list[tuple[PortRange, str]]


Remotes = dict[tuple[str | None, ...], dict[Tags, list[Instance]]]


@dataclass(frozen=True, slots=True)
class _Fleet:
    policy: Policy
    live: list[Rule]
    profiles: Mapping[Tags, tuple[Instance, ...]]
    population: Population

    def ends(self, rules: Iterable[Rule], direction: Direction) -> dict[tuple[Instance, Tags | Node], Rights]:
        """What each instance's host lets through by these rules, to or from each class of hosts and peer network."""
        out: dict[tuple[Instance, Tags | Node], Rights] = defaultdict(list)
        for rule in rules:
            mine, theirs = ends_of(direction, rule)
            remotes = self._remotes(theirs, rule.within)
            for local in self.population.named(mine):
                rights = [(p, rule.name) for p in rule.ports if direction == "egress" or receives(local, p)]
                if theirs.peer is not None:
                    for node in _peer_nodes(self.policy, direction, local, theirs):
                        out[(local, node)] += rights
                    continue
                for tags, named in remotes.get(tuple(map(local.tags.get, rule.within)), {}).items():
                    if not self.policy.boundaries or self._passes(direction, rule, local, tags, named):
                        out[(local, tags)] += rights
        return out

    def _remotes(
        self, theirs: Selector, within: tuple[str, ...]
    ) -> dict[tuple[str | None, ...], dict[Tags, list[Instance]]]:
        """Who is named, by the tags that must be the same and by the tags of the host."""
        out: Remotes = {}
        for remote in self.population.named(theirs):
            values = tuple(map(remote.tags.get, within))
            if None not in values:
                out.setdefault(values, {}).setdefault(remote.host_tags, []).append(remote)
        return out

    def _passes(self, direction: Direction, rule: Rule, local: Instance, tags: Tags, named: Sequence[Instance]) -> bool:
        if all(cutting_boundary(self.policy, direction, local, r) for r in named):
            return False
        if direction == "egress":
            return True
        return not crossing_boundary(self.policy, self.live, rule, local, self.profiles[tags])


def _peer_nodes(policy: Policy, direction: Direction, local: Instance, theirs: Selector) -> list[Node]:
    holes: list[Network] = []
    for boundary in policy.boundaries:
        mine, other = ends_of(direction, boundary)
        if other.peer is not None and selects(mine, local):
            holes.extend(peer_networks(policy, other.peer))
    name = theirs.peer or ""
    return [Node(peer=name, network=str(n)) for n in exclude(peer_networks(policy, name), holes)]


def _permission(rights: Rights) -> Permission:
    return Permission(normalize(p for p, _ in rights), tuple(rights))


def _meet(a: Rights, b: Rights) -> Permission:
    ports = intersect((p for p, _ in a), (p for p, _ in b))
    return Permission(ports, tuple(a)) if ports else Permission((), ())


def _names(inventory: Inventory) -> Mapping[Tags, list[str]]:
    names: dict[Tags, list[str]] = defaultdict(list)
    for host in inventory.hosts.values():
        names[host.tags].append(host.name)
    return names


def mode_words(policy: Policy, instance: Instance) -> str:
    """`enforce`, or `enforce, outgoing drop` where the answer is not the default. Other modes answer nothing."""
    mode = effective_mode(policy, instance)
    if mode is not Mode.ENFORCE:
        return mode.value
    outgoing, incoming = (effective_answer(policy, instance, d) for d in ("egress", "ingress"))
    words = ["outgoing drop"] * (outgoing is Answer.DROP) + ["incoming reject"] * (incoming is Answer.REJECT)
    return ", ".join([mode.value, *words])


def _modes(before: Policy, after: Policy, inventory: Inventory) -> tuple[ModeChange, ...]:
    same = (before.workloads, before.modes) == (after.workloads, after.modes)
    alike = {} if same else _names(inventory)
    finders = [(policy, InstanceFinder(policy)) for policy in (before, after)]
    out = []
    for tags, hosts in alike.items():
        old, new = ({i.workload: mode_words(p, i) for i in finder.of(Host("", tags))} for p, finder in finders)
        for name in old.keys() | new.keys():
            words = old.get(name, "-"), new.get(name, "-")
            if words[0] != words[1]:
                out += [ModeChange(host, name, *words) for host in hosts]
    return tuple(sorted(out))
