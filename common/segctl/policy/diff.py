"""The semantic difference of two policies over one inventory: tuples that become allowed or denied, modes that change.

Hosts with the same tags have the same workloads and rights, so the difference is taken between *nodes*: a workload of
a tag tuple, or a network of a peer. It is driven by rules: only pairs that some rule names are looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from segctl.model.inventory import Host, Inventory
from segctl.model.policy import Answer, Mode, Network, Policy, PortRange, Selector, Tags
from segctl.policy.decide import (
    ESSENTIAL_ICMPV6,
    Direction,
    Instance,
    crossing_boundary,
    cutting_boundary,
    effective_answer,
    effective_mode,
    ends_of,
    instances,
    is_live,
    pair_matches,
    peer_networks,
    receives,
    selects,
)
from segctl.policy.networks import exclude
from segctl.policy.ports import Ports, intersect, normalize, subtract
from segctl.policy.propose import service_name


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


_ALWAYS = tuple(PortRange("icmpv6", t, t) for t in sorted(ESSENTIAL_ICMPV6))
"""What passes whatever the policy says is no change of it."""

Matrix = Mapping[tuple[Node, Node], Permission]


def diff_policies(before: Policy, after: Policy, inventory: Inventory, now: datetime) -> PolicyDiff:
    """What changes for the enrolled hosts when `after` replaces `before`."""
    old, new = matrix(before, inventory, now), matrix(after, inventory, now)
    names = _names(inventory)
    nothing = Permission((), ())
    changes: list[Change] = []
    for pair in sorted(old.keys() | new.keys()):
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


def matrix(policy: Policy, inventory: Inventory, now: datetime) -> Matrix:
    """Every permitted tuple of the fleet: the communication matrix."""
    stand_ins: dict[Tags, Host] = {}
    for host in inventory.hosts.values():
        stand_ins.setdefault(host.tags, host)
    profiles = {tags: instances(policy, host) for tags, host in stand_ins.items()}
    nodes = {i: Node(i.workload, i.tags, host_tags=tags) for tags, profile in profiles.items() for i in profile}
    egress = _ends(policy, profiles, "egress", now)
    ingress = _ends(policy, profiles, "ingress", now)
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


Rights = list[tuple[PortRange, str]]


def _ends(
    policy: Policy, profiles: Mapping[Tags, tuple[Instance, ...]], direction: Direction, now: datetime
) -> dict[tuple[Instance, Tags | Node], Rights]:
    """What each instance's host lets through to or from each tag tuple of hosts, and each peer network."""
    out: dict[tuple[Instance, Tags | Node], Rights] = defaultdict(list)
    rules = [r for r in policy.rules if is_live(r, now)]
    for rule in rules:
        mine, theirs = ends_of(direction, rule)
        locals_ = [i for profile in profiles.values() for i in profile if selects(mine, i)]
        for local in locals_:
            rights = [(p, rule.name) for p in rule.ports if direction == "egress" or receives(local, p)]
            if theirs.peer is not None:
                for node in _peer_nodes(policy, direction, local, theirs):
                    out[(local, node)] += rights
                continue
            for tags, profile in profiles.items():
                named = [r for r in profile if pair_matches(policy, direction, rule, local, r)]
                if all(cutting_boundary(policy, direction, local, r) for r in named):
                    continue
                if direction == "ingress" and crossing_boundary(policy, rules, rule, local, profile):
                    continue
                out[(local, tags)] += rights
    return out


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
    out = []
    for host in inventory.hosts.values():
        old = {i.workload: mode_words(before, i) for i in instances(before, host)}
        new = {i.workload: mode_words(after, i) for i in instances(after, host)}
        out += [
            ModeChange(host.name, name, old.get(name, "-"), new.get(name, "-"))
            for name in old.keys() | new.keys()
            if old.get(name) != new.get(name)
        ]
    return tuple(sorted(out))
