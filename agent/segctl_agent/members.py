"""Members of groups that come and go, as elements of the sets they are in. Pure; costs what changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from segctl.model.addresses import Address, AddressSet
from segctl.model.hostpolicy import Entry, HostPolicy, LocalWorkload

from segctl_agent.change import Turnover
from segctl_agent.identity import DIRECTIONS, Direction
from segctl_agent.nft.keys import Keys
from segctl_agent.nft.ruleset import Counts, Data, Elements, NftSet, Ruleset
from segctl_agent.render.sets import flow_suffix, size_for
from segctl_agent.render.workloads import Shape, counter_name, entries_of, exact, flows_name, shape_of


@dataclass(frozen=True, slots=True)
class Moved:
    """`sets` are the sets that changed, as they are to be; `moves` what goes from each and what comes (as in `plan`);
    `narrowed` the groups that lost somebody."""

    sets: Mapping[str, NftSet]
    moves: Mapping[str, tuple[Collection[bytes], Elements]]
    narrowed: frozenset[str]


def move_members(now: Ruleset, policy: HostPolicy, moved: Mapping[str, Turnover]) -> Moved | None:
    """`now` is the table under the policy before, `moved` the turnover of groups since. None when the chains or the
    type of a set would change too: then the whole has to be rendered."""
    groups = {g.name: g for g in policy.groups}
    shapes = {g.name: shape_of(g) for g in policy.groups}
    sets: dict[str, NftSet] = {}
    moves: dict[str, tuple[Collection[bytes], Elements]] = {}
    narrowed: set[str] = set()
    touched: dict[str, dict[bytes, Data]] = {}
    for name, turnover in moved.items():
        if shape_of(replace(groups[name], hosts=turnover.before)) != shapes[name]:
            return None
        if turnover.removed:
            narrowed.add(name)
        for version, width in ((4, 4), (6, 16)):
            own = f"g{name}{version}"
            if own in now.sets:
                keys = Keys(width, groups[name].hosts.packed(version))
                if size_for(len(keys)) != now.sets[own].spec.size:
                    return None
                sets[own] = NftSet(now.sets[own].spec, keys)
                coming = Keys.of(width, (a.packed for a in turnover.added if a.version == version))
                moves[own] = ([a.packed for a in turnover.removed if a.version == version], coming)
        for flows, key, data in _flows(policy, shapes, name, (*turnover.added, *turnover.removed)):
            touched.setdefault(flows, {})[key] = data
    for flows, wanted in touched.items():
        held = now.sets[flows].elements
        changed = {k: v for k, v in wanted.items() if held.get(k) != v}
        moves[flows] = ([k for k in changed if k in held], {k: v for k, v in changed.items() if v is not None})
        after = _after(now.sets[flows], *moves[flows])
        if after is None:
            return None
        sets[flows] = after
    return Moved(sets, {n: m for n, m in moves.items() if m[0] or m[1]}, frozenset(narrowed))


def _after(before: NftSet, gone: Collection[bytes], new: Elements) -> NftSet | None:
    """The map with its change. None when it would outgrow its size, or fall far below it."""
    changed = dict(before.elements)
    for key in gone:
        changed.pop(key, None)
    changed.update(new)
    return NftSet(before.spec, MappingProxyType(changed)) if size_for(len(changed)) == before.spec.size else None


def _flows(
    policy: HostPolicy, shapes: Mapping[str, Shape], group: str, addresses: Iterable[Address]
) -> Iterator[tuple[str, bytes, Data]]:
    """(map, key, what it is to hold) of these addresses in every map that the group takes part in."""
    if not shapes[group].merged:
        return
    addresses = tuple(addresses)
    hosts = {g.name: g.hosts for g in policy.groups}
    for workload in policy.workloads:
        for direction in DIRECTIONS:
            entries = entries_of(workload, direction)
            for entry in entries:
                if entry.group == group:
                    for address in addresses:
                        yield from _keys(policy, hosts, shapes, (workload, direction), entry, address)


def _keys(
    policy: HostPolicy,
    hosts: Mapping[str, AddressSet],
    shapes: Mapping[str, Shape],
    end: tuple[LocalWorkload, Direction],
    entry: Entry,
    address: Address,
) -> Iterator[tuple[str, bytes, Data]]:
    workload, direction = end
    version = address.version
    for port in entry.ports:
        if not exact(port):
            continue
        rules = [
            e.rule
            for e in entries_of(workload, direction)
            if e.until == entry.until
            and port in e.ports
            and shapes[e.group].merged
            and address in hosts[e.group]
            and (e.managed or address not in policy.managed)
        ]
        data = Counts(counter_name(direction, min(rules))) if rules else None
        name = flows_name(workload.name, direction, entry.until, 4 if version == 4 else 6)
        yield name, address.packed + flow_suffix(port.protocol, port.low), data
