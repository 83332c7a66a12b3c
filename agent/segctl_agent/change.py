"""Does a new host policy only add, or does it take something away from live flows? Pure.

A change that takes something away takes the next epoch, so that every live flow walks the policy once more. To say
"takes away" of a pure addition costs a walk for each flow; to say "only adds" of a narrowing would let a forbidden flow
live. So whatever is not plainly an addition counts as taking away.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from segctl.model.hostpolicy import Entry, HostPolicy, LocalWorkload
from segctl.model.policy import Essentials, Network, PortRange

from segctl_agent.render.marks import EPOCHS

Networks = Mapping[str, frozenset[Network]]


def next_epoch(epoch: int) -> int:
    """Round again after the last; 0 is the mark of a flow that nobody has judged."""
    return epoch % EPOCHS[-1] + 1


def only_adds(old: HostPolicy, new: HostPolicy) -> bool:
    """True only when every flow that `old` permits is permitted by `new`, of the same workload."""
    if old.host != new.host or len(old.workloads) != len(new.workloads):
        return False
    if not set(new.managed) <= set(old.managed):  # a managed address is kept out of every peer
        return False
    if not _essentials_only_add(old.essentials, new.essentials):
        return False
    before = {g.name: frozenset(g.networks) for g in old.groups}
    after = {g.name: frozenset(g.networks) for g in new.groups}
    return all(_workload_only_adds(a, b, before, after) for a, b in zip(old.workloads, new.workloads, strict=True))


def _essentials_only_add(old: Essentials, new: Essentials) -> bool:
    return (
        set(old.dns) <= set(new.dns)
        and set(old.ntp) <= set(new.ntp)
        and set(old.rescue) <= set(new.rescue)
        and all(any(n.covers(o) for n in new.rescue_ports) for o in old.rescue_ports)
    )


def _workload_only_adds(old: LocalWorkload, new: LocalWorkload, before: Networks, after: Networks) -> bool:
    if (old.name, old.process) != (new.name, new.process) or new.mode.strictness > old.mode.strictness:
        return False
    return _entries_only_add(old.ingress, new.ingress, before, after) and _entries_only_add(
        old.egress, new.egress, before, after
    )


def _entries_only_add(old: Sequence[Entry], new: Sequence[Entry], before: Networks, after: Networks) -> bool:
    candidates: dict[tuple[str, bool], list[Entry]] = defaultdict(list)
    for entry in new:
        candidates[entry.group, entry.managed].append(entry)
    for entry in old:
        if not before.get(entry.group, frozenset()) <= after.get(entry.group, frozenset()):
            return False
        ports = [p for c in candidates[entry.group, entry.managed] for p in c.ports]
        if not all(_covered(port, ports) for port in entry.ports):
            return False
    return True


def _covered(port: PortRange, by: Sequence[PortRange]) -> bool:
    return any(candidate.covers(port) for candidate in by)


def size_of(policy: HostPolicy) -> int:
    """Entries and networks: what rendering takes time for."""
    entries = sum(len(w.ingress) + len(w.egress) for w in policy.workloads)
    return entries + sum(len(g.networks) for g in policy.groups)
