"""Members of groups that come and go, as elements of the sets they are in. Pure; costs what changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from segctl.model.addresses import Address, AddressSet
from segctl.model.hostpolicy import Entry, HostPolicy, LocalWorkload

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


def move_members(now: Ruleset, policy: HostPolicy, moved: Mapping[str, tuple[AddressSet, AddressSet]]) -> Moved | None:
    """`now` is the table under the policy before, `moved` maps groups to their hosts before and now. None when the
    chains or the type of a set would change too: then the whole has to be rendered."""
    groups = {g.name: g for g in policy.groups}
    shapes = {g.name: shape_of(g) for g in policy.groups}
    sets: dict[str, NftSet] = {}
    moves: dict[str, tuple[Collection[bytes], Elements]] = {}
    narrowed: set[str] = set()
    touched: dict[str, dict[bytes, Data]] = {}
    for name, (before, after) in moved.items():
        if shape_of(replace(groups[name], hosts=before)) != shapes[name]:
            return None
        added, removed = before.difference(after)
        if removed:
            narrowed.add(name)
        for version in (4, 6):
            if f"g{name}{version}" in now.sets:
                leaving = [a.packed for a in removed if a.version == version]
                coming = [a.packed for a in added if a.version == version]
                moves[f"g{name}{version}"] = (leaving, Keys.of(4 if version == 4 else 16, coming))
        for flows, key, data in _flows(policy, shapes, name, (*added, *removed)):
            touched.setdefault(flows, {})[key] = data
    for flows, wanted in touched.items():
        held = now.sets[flows].elements
        changed = {k: v for k, v in wanted.items() if held.get(k) != v}
        moves[flows] = ([k for k in changed if k in held], {k: v for k, v in changed.items() if v is not None})
    for name, (gone, new) in moves.items():
        after_move = _after(now.sets[name], gone, new)
        if after_move is None:
            return None
        sets[name] = after_move
    return Moved(sets, {n: m for n, m in moves.items() if m[0] or m[1]}, frozenset(narrowed))


def _after(before: NftSet, gone: Collection[bytes], new: Elements) -> NftSet | None:
    """The set with its change. None when it would outgrow its size, or fall far below it."""
    if isinstance(before.elements, Keys):
        elements: Elements = before.elements.changed(new, gone)
    else:
        changed = dict(before.elements)
        for key in gone:
            changed.pop(key, None)
        changed.update(new)
        elements = MappingProxyType(changed)
    return NftSet(before.spec, elements) if size_for(len(elements)) == before.spec.size else None


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
