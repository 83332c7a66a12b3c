"""What a new host policy takes away, decision by decision. Pure.

A decision that loses something takes a fresh id, so that its flows walk the policy once more. To say "loses" of a pure
addition costs a walk for each of its flows; to say "only gains" of a narrowing would let a forbidden flow live. So
whatever is not plainly an addition counts as taking away.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from segctl.model.addresses import Address, AddressSet
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Essentials, PortRange

from segctl_agent.decisions import ESSENTIALS, Decision, needed
from segctl_agent.identity import DIRECTIONS, Direction

Groups = Mapping[str, Group]


def narrowed(old: HostPolicy, new: HostPolicy) -> frozenset[Decision]:
    """The decisions of `new` that permit less than they did in `old`, or that may be about other processes now."""
    if old.host != new.host or _processes(old) != _processes(new):
        return frozenset(needed(new))
    out: set[Decision] = set()
    if not _essentials_only_add(old.essentials, new.essentials):
        out |= {Decision(d, ESSENTIALS) for d in DIRECTIONS}
    before, after = {g.name: g for g in old.groups}, {g.name: g for g in new.groups}
    grown = not new.managed <= old.managed  # a managed address is kept out of every peer
    for a, b in zip(old.workloads, new.workloads, strict=True):
        stricter = b.mode.strictness > a.mode.strictness
        for direction in DIRECTIONS:
            ours, theirs = _of(a, direction), _of(b, direction)
            for until in {e.until for e in ours} | {0}:
                mine = [e for e in ours if e.until == until]
                left = [e for e in theirs if e.until == until]
                less = (stricter and not until) or (grown and any(not e.managed for e in mine))
                if less or not _only_add(mine, left, before, after):
                    out.add(Decision(direction, b.name, until))
    return frozenset(out)


def decisions_with(policy: HostPolicy, group: str) -> frozenset[Decision]:
    """The decisions that permit something to or from the members of a group."""
    return frozenset(
        Decision(direction, workload.name, entry.until)
        for workload in policy.workloads
        for direction in DIRECTIONS
        for entry in _of(workload, direction)
        if entry.group == group
    )


@dataclass(frozen=True, slots=True)
class Turnover:
    """Who came into a group and who left it; `before` are its hosts until then."""

    before: AddressSet
    added: tuple[Address, ...]
    removed: tuple[Address, ...]


def members_moved(old: HostPolicy, new: HostPolicy) -> dict[str, Turnover] | None:
    """The turnover of each group that has one, when that is all that differs but for the generation; else None."""
    same = (
        (old.host, old.workloads, old.essentials, old.managed) == (new.host, new.workloads, new.essentials, new.managed)
        and len(old.groups) == len(new.groups)
        and all((a.name, a.networks) == (b.name, b.networks) for a, b in zip(old.groups, new.groups, strict=True))
    )
    if not same:
        return None
    pairs = [(a, b) for a, b in zip(old.groups, new.groups, strict=True) if a.hosts != b.hosts]
    return {a.name: Turnover(a.hosts, *a.hosts.difference(b.hosts)) for a, b in pairs}


def _processes(policy: HostPolicy) -> Iterable[object]:
    return [(w.name, w.process) for w in policy.workloads]


def _of(workload: LocalWorkload, direction: Direction) -> tuple[Entry, ...]:
    return workload.ingress if direction == "in" else workload.egress


def _essentials_only_add(old: Essentials, new: Essentials) -> bool:
    return (
        set(old.dns) <= set(new.dns)
        and set(old.ntp) <= set(new.ntp)
        and set(old.rescue) <= set(new.rescue)
        and all(any(n.covers(o) for n in new.rescue_ports) for o in old.rescue_ports)
    )


def _only_add(old: Sequence[Entry], new: Sequence[Entry], before: Groups, after: Groups) -> bool:
    candidates: dict[tuple[str, bool], list[Entry]] = defaultdict(list)
    for entry in new:
        candidates[entry.group, entry.managed].append(entry)
    for entry in old:
        if entry.group not in after or not _keeps(before[entry.group], after[entry.group]):
            return False
        ports = [p for c in candidates[entry.group, entry.managed] for p in c.ports]
        if not all(_covered(port, ports) for port in entry.ports):
            return False
    return True


def _keeps(before: Group, after: Group) -> bool:
    return set(before.networks) <= set(after.networks) and before.hosts <= after.hosts


def _covered(port: PortRange, by: Sequence[PortRange]) -> bool:
    return any(candidate.covers(port) for candidate in by)


def size_of(policy: HostPolicy) -> int:
    """Entries and networks: what rendering takes time for."""
    return sum(1 for _ in policy.entries()) + sum(len(g) for g in policy.groups)
