"""What a process leaves with the workload `host` when it gets one of its own. What kept `host` apart keeps it apart no
more: rules and modes that are there already would mean it in another way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from segctl.model.policy import HOST_WORKLOAD, Boundary, Policy, Rule, Selector, Workload
from segctl.policy.decide import peer_networks


def opened(policy: Policy, workloads: Iterable[Workload]) -> Iterator[tuple[Workload, Boundary, Rule]]:
    """Each new workload that a rule may permit what a boundary takes from `host`. By the tags alone, whatever hosts
    there are: others come."""
    of_host = [
        (boundary, *ends)
        for boundary in policy.boundaries
        for ends in _sides(boundary)
        if ends[0].workload == HOST_WORKLOAD
    ]
    for workload in workloads:
        for boundary, near, far, side in of_host:
            if near.tags.conflicts(workload.on):
                continue
            for rule in policy.rules:
                own, other, _ = _sides(rule)[side]
                if own.peer is not None or own.workload is not None:
                    continue  # it means no process of the new workload
                if own.tags.conflicts(workload.on) or own.tags.conflicts(near.tags):
                    continue
                if _meet(policy, other, far):
                    yield workload, boundary, rule
                    break


def _sides(item: Rule | Boundary) -> tuple[tuple[Selector, Selector, int], tuple[Selector, Selector, int]]:
    """Each end, the other one, and which it is."""
    return (item.source, item.destination, 0), (item.destination, item.source, 1)


def _meet(policy: Policy, one: Selector, other: Selector) -> bool:
    """Whether somebody may be named by both."""
    if one.peer is not None and other.peer is not None:
        mine, theirs = peer_networks(policy, one.peer), peer_networks(policy, other.peer)
        return any(a.version == b.version and a.overlaps(b) for a in mine for b in theirs)
    if one.peer is not None or other.peer is not None:
        return False  # an address that a host holds is no peer (ADR 3)
    if one.workload is not None and other.workload is not None and one.workload != other.workload:
        return False
    return not one.tags.conflicts(other.tags)
