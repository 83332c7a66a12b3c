"""Policy and inventory to what each host must enforce.

A remote selector becomes a *group*: the addresses of the hosts it names, or a peer's networks. A group's name depends
on what it means (selector, `within` values, boundaries), never on who is in it, so a host that joins or leaves is a
change of members and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_network
from math import ceil

from segctl.model.addresses import AddressSet
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.inventory import Host, Inventory
from segctl.model.policy import HOST_WORKLOAD, Boundary, Network, Policy, PortRange, Rule, Selector, Tags
from segctl.policy.decide import (
    Direction,
    Instance,
    could_call,
    effective_answer,
    effective_mode,
    ends_of,
    instances,
    is_live,
    peer_networks,
    selects,
)
from segctl.policy.networks import NetworkIndex, exclude


def compile_host(
    policy: Policy, inventory: Inventory, host: str, generation: int, policy_digest: str, now: datetime
) -> HostPolicy:
    """The host policy of one enrolled host. Raises KeyError for a host that is not in the inventory."""
    return Compiler(policy, inventory, now).host_policy(host, generation, policy_digest)


@dataclass(frozen=True, slots=True)
class _GroupKey:
    """What a group means. `within` are the values the remote must carry; `cuts` the boundaries that take some away.

    `cover` is there where a boundary may divide the workloads of one host: the ports and the local host's workloads,
    which tell whether somebody could pass the boundary under the cover of the rule (`crossing_boundary`).
    """

    selector: Selector
    within: Tags
    cuts: tuple[Selector, ...]
    cover: tuple[tuple[PortRange, ...], tuple[Instance, ...]] | None = None

    @property
    def name(self) -> str:
        meaning: tuple[object, ...] = (
            self.selector.tags.pairs,
            self.selector.workload,
            self.selector.peer,
            self.within.pairs,
            sorted((c.tags.pairs, c.workload or "", c.peer or "") for c in self.cuts),
        )
        if self.cover is not None:
            ports, neighbours = self.cover
            meaning = (*meaning, ports, tuple((i.workload, i.tags.pairs) for i in neighbours))
        return hashlib.sha256(repr(meaning).encode()).hexdigest()[:12]


class Compiler:
    """Compiles any number of hosts of one policy and inventory; what they share is computed once."""

    def __init__(self, policy: Policy, inventory: Inventory, now: datetime) -> None:
        self._policy = policy
        self._inventory = inventory
        self._rules = tuple(r for r in policy.rules if is_live(r, now))
        self._by_tags: dict[Tags, list[Host]] = {}
        for host in inventory.hosts.values():
            self._by_tags.setdefault(host.tags, []).append(host)
        # Hosts with the same tags have the same instances: one stand-in for each tuple of tags.
        self._profiles = {tags: instances(policy, hosts[0]) for tags, hosts in self._by_tags.items()}
        self._members: dict[_GroupKey, Group] = {}

    def host_policy(self, host: str, generation: int, policy_digest: str) -> HostPolicy:
        record = self._inventory.hosts[host]
        groups: dict[str, Group] = {}
        peer_space: list[Network] = []
        local = tuple(self._local(i, groups, peer_space) for i in instances(self._policy, record))
        return HostPolicy(
            host=host,
            generation=generation,
            policy_digest=policy_digest,
            workloads=local,
            groups=tuple(groups[name] for name in sorted(groups)),
            managed=self._managed_in(peer_space, record),
            essentials=self._policy.essentials,
        )

    def _local(self, instance: Instance, groups: dict[str, Group], peer_space: list[Network]) -> LocalWorkload:
        def entries(direction: Direction) -> tuple[Entry, ...]:
            out = []
            for rule in self._rules:
                mine, theirs = ends_of(direction, rule)
                if not selects(mine, instance):
                    continue
                key = self._key(direction, rule, theirs, instance)
                if key is None:
                    continue
                group = groups.setdefault(key.name, self._resolve(key))
                if theirs.peer is not None:
                    peer_space.extend((*group.networks, *(ip_network(a) for a in group.hosts)))
                out.append(Entry(rule.name, key.name, rule.ports, theirs.peer is None, _until(rule)))
            return tuple(out)

        declared = self._policy.workloads.get(instance.workload) if instance.workload != HOST_WORKLOAD else None
        return LocalWorkload(
            name=instance.workload,
            process=declared.process if declared else None,
            mode=effective_mode(self._policy, instance),
            ingress=entries("ingress"),
            egress=entries("egress"),
            outgoing=effective_answer(self._policy, instance, "egress"),
            incoming=effective_answer(self._policy, instance, "ingress"),
        )

    def _key(self, direction: Direction, rule: Rule, theirs: Selector, local: Instance) -> _GroupKey | None:
        within = [(k, local.tags.get(k)) for k in rule.within]
        if any(v is None for _, v in within):
            return None  # a relational rule never applies to an instance without the tag
        cuts = tuple(_theirs(direction, b) for b in self._policy.boundaries if selects(_mine(direction, b), local))
        cover = None
        if direction == "ingress" and theirs.peer is None and self._divides(cuts):
            cover = (rule.ports, self._profiles[local.host_tags])
        return _GroupKey(theirs, Tags.of([(k, v) for k, v in within if v is not None]), cuts, cover)

    def _divides(self, cuts: tuple[Selector, ...]) -> bool:
        """Whether one of these boundaries may name some workloads of a host and not the others."""
        return any(c.workload is not None for c in cuts) or (
            bool(cuts) and any(w.tags.pairs for w in self._policy.workloads.values())
        )

    def _resolve(self, key: _GroupKey) -> Group:
        if key not in self._members:
            peer = key.selector.peer is not None
            self._members[key] = (
                Group(key.name, self._peer_members(key)) if peer else Group(key.name, hosts=self._host_members(key))
            )
        return self._members[key]

    def _peer_members(self, key: _GroupKey) -> tuple[Network, ...]:
        holes = [n for c in key.cuts if c.peer is not None for n in peer_networks(self._policy, c.peer)]
        return exclude(peer_networks(self._policy, key.selector.peer or ""), holes)

    def _host_members(self, key: _GroupKey) -> AddressSet:
        hosts = [
            host
            for tags, profile in self._profiles.items()
            if any(_named(key, instance) for instance in profile) and not self._crosses(key, profile)
            for host in self._by_tags[tags]
        ]
        return _addresses(hosts)

    def _crosses(self, key: _GroupKey, profile: tuple[Instance, ...]) -> bool:
        if key.cover is None:
            return False
        ports, neighbours = key.cover
        return any(
            any(selects(cut, other) for cut in key.cuts)
            and could_call(self._policy, self._rules, other, neighbours, ports)
            for other in profile
        )

    def _managed_in(self, peer_space: list[Network], record: Host) -> AddressSet:
        if not peer_space:
            return AddressSet()
        index = NetworkIndex(peer_space)
        return _addresses(
            Host(h.name, h.tags, tuple(a for a in h.addresses if a in index))
            for h in self._inventory.hosts.values()
            if h.name != record.name
        )


def _until(rule: Rule) -> int:
    """Rounded up: whole seconds are what a policy can say."""
    return ceil(rule.until.timestamp()) if rule.until is not None else 0


def _named(key: _GroupKey, instance: Instance) -> bool:
    return (
        selects(key.selector, instance)
        and instance.tags.includes(key.within)
        and not any(selects(cut, instance) for cut in key.cuts)
    )


def _mine(direction: Direction, boundary: Boundary) -> Selector:
    return ends_of(direction, boundary)[0]


def _theirs(direction: Direction, boundary: Boundary) -> Selector:
    return ends_of(direction, boundary)[1]


def _addresses(hosts: Iterable[Host]) -> AddressSet:
    return AddressSet.of(a for h in hosts for a in h.addresses)
