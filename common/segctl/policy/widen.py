"""Make before break, across hosts: what a host holds between two generations of which one permission moves.

Hosts do not change in one moment. A permission that goes from one pair of hosts to another is missing where one host
has taken the new generation and another has not. So all hosts first permit what either generation permits, then only
what the new one does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import count

from segctl.model.addresses import AddressSet
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Essentials, Network, Policy, PortRange
from segctl.policy.networks import collapse


def widen(old: HostPolicy, new: HostPolicy) -> HostPolicy:
    """`old` with what `new` permits to the same workloads, those with the same name, told by the same process; under
    the number of `new`. Modes and workloads are those of `old`: nothing that passes now is denied."""
    after = {(w.name, w.process): w for w in new.workloads}
    level = replace(old, generation=new.generation, policy_digest=new.policy_digest)
    groups = {g.name: g for g in old.groups}
    theirs = _Theirs({g.name: g for g in new.groups}, groups)
    workloads = []
    for workload in old.workloads:
        known = after.get((workload.name, workload.process))
        workloads.append(workload if known is None else _with(workload, known, theirs))
    essentials = _essentials(old.essentials, new.essentials)
    if tuple(workloads) == old.workloads and essentials == old.essentials:
        return level
    return replace(
        level,
        workloads=tuple(workloads),
        groups=tuple(sorted(groups.values(), key=lambda g: g.name)),
        managed=_both(old.managed, new.managed),
        essentials=essentials,
    )


def may_move(old: Policy, new: Policy) -> bool:
    """Whether `moves` is possible at all for hosts of the two: quickly told, and true where that is not certain."""
    if (old.peers, old.workloads, old.boundaries) != (new.peers, new.workloads, new.boundaries):
        return True
    if old.essentials != new.essentials:
        return True
    before, after = (
        {(r.source, r.destination, r.within, r.until, ports) for r in p.rules for ports in r.ports} for p in (old, new)
    )
    if before == after:
        return False
    # Where there are boundaries, one rule more may keep hosts out (`decide.crossing_boundary`).
    return bool(old.boundaries) or not (before <= after or after <= before)


def moves(old: Mapping[str, HostPolicy], new: Mapping[str, HostPolicy]) -> bool:
    """Whether permissions both go and come between the two, by host: only then one may be missing in between."""
    gone = come = False
    for host, after in new.items():
        before = old.get(host)
        if before is None:
            continue
        level = replace(before, generation=after.generation, policy_digest=after.policy_digest)
        come = come or widen(before, after) != level
        gone = gone or widen(after, level) != after
    return gone and come


class _Theirs:
    """The groups of the new policy, each under a name of its own among `groups` once an entry needs it."""

    def __init__(self, origin: Mapping[str, Group], groups: dict[str, Group]) -> None:
        self._origin, self._groups = origin, groups
        self._names: dict[str, str] = {}

    def adopted(self, entry: Entry) -> Entry:
        name = self._names.get(entry.group)
        if name is None:
            group = self._origin[entry.group]
            name = group.name
            if self._groups.get(name, group) != group:
                name = next(n for n in (f"{group.name}_{number}" for number in count(2)) if n not in self._groups)
            self._groups[name] = replace(group, name=name)
            self._names[entry.group] = name
        return replace(entry, group=name)

    def covered(self, entry: Entry, among: Mapping[PortRange, Iterable[Entry]]) -> bool:
        """Whether one of the old entries, which are there by their services, permits all of it."""
        there = self._origin[entry.group]
        alike = among.get(entry.ports[0], ()) if entry.ports else ()
        return any(_covers(now, self._groups[now.group], entry, there) for now in alike)


def _with(workload: LocalWorkload, known: LocalWorkload, theirs: _Theirs) -> LocalWorkload:
    def more(now: tuple[Entry, ...], then: tuple[Entry, ...]) -> tuple[Entry, ...]:
        by_service: dict[PortRange, list[Entry]] = {}
        for entry in now:
            for service in entry.ports:
                by_service.setdefault(service, []).append(entry)
        return (*now, *(theirs.adopted(e) for e in then if not theirs.covered(e, by_service)))

    return replace(workload, ingress=more(workload.ingress, known.ingress), egress=more(workload.egress, known.egress))


def _covers(now: Entry, here: Group, then: Entry, there: Group) -> bool:
    lasts = now.until == 0 or 0 < then.until <= now.until
    return (
        lasts
        and now.managed == then.managed
        and set(then.ports) <= set(now.ports)
        and set(there.networks) <= set(here.networks)
        and (there.hosts == here.hosts or there.hosts <= here.hosts)
    )


def _both(old: AddressSet, new: AddressSet) -> AddressSet:
    return old.changed(tuple(a for a in new if a not in old))


def _essentials(old: Essentials, new: Essentials) -> Essentials:
    return replace(
        old,
        dns=_networks(old.dns, new.dns),
        ntp=_networks(old.ntp, new.ntp),
        rescue=_networks(old.rescue, new.rescue),
        rescue_ports=tuple(dict.fromkeys((*old.rescue_ports, *new.rescue_ports))),
    )


def _networks(old: tuple[Network, ...], new: tuple[Network, ...]) -> tuple[Network, ...]:
    return old if set(new) <= set(old) else collapse((*old, *new))
