"""Which live flows a draft of this host's policy would end. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from segctl.model.policy import HOST_WORKLOAD

from segctl_agent.conntrack.values import ConntrackRow
from segctl_agent.flows.live import LiveFlow, live_flows, passes
from segctl_agent.flows.observer import WorkloadOf
from segctl_agent.flows.permits import PolicyIndex
from segctl_agent.flows.values import ESSENTIALS, Marks, Side, side
from segctl_agent.identity import Direction

MAX_NAMED = 1000


@dataclass(frozen=True, slots=True)
class Cut:
    """`rule` permits it now; "" for the mode or an essential."""

    flow: LiveFlow
    direction: Direction
    workload: str
    side: Side
    rule: str


@dataclass(frozen=True, slots=True)
class Impact:
    """`live` flows were looked at; `cut` of them would end, `named` are the first of those."""

    live: int
    cut: int
    named: tuple[Cut, ...]


def impact(
    present: PolicyIndex | None,
    draft: PolicyIndex,
    dump: Iterable[Sequence[ConntrackRow]],
    marks: Marks,
    workload_of: WorkloadOf,
    now: float,
    limit: int,
) -> Impact:
    """A flow lives on when the draft lets it, in its direction for its workload; where the draft lacks that workload,
    for `host`. A flow of an essential that the draft does not declare is judged as one of `host`, since the mark names
    no workload. What a draft takes out of `host` into a new workload is not known before the draft is in force."""
    live = cut = 0
    named: list[Cut] = []
    last: ConntrackRow | None = None
    ends_last = False
    for flow in live_flows(dump, marks):
        workload = workload_of(flow.direction, flow.number)
        if workload is None:
            continue
        again = flow.row is last  # its other half: one flow
        live += not again
        ends = not (again and ends_last) and not _lives_on(flow, workload, present, draft, now)
        last, ends_last = flow.row, ends or (again and ends_last)
        if ends:
            cut += 1
            if len(named) < min(limit, MAX_NAMED):
                named.append(_cut(flow, workload, present, now))
    return Impact(live, cut, tuple(named))


def _lives_on(flow: LiveFlow, workload: str, present: PolicyIndex | None, draft: PolicyIndex, now: float) -> bool:
    if passes(flow, workload or HOST_WORKLOAD, draft, now):
        return True
    if workload != ESSENTIALS:
        return False
    # The built-in essentials (DHCP, the agent's own channel) are in no declaration, and in every policy.
    return present is None or not any(
        present.essential(direction, seen.remote, flow.row.protocol, seen.service)
        for direction, seen in flow.judged_as()
    )


def _cut(flow: LiveFlow, workload: str, present: PolicyIndex | None, now: float) -> Cut:
    if present is not None and workload != ESSENTIALS:
        for direction, seen in flow.judged_as():
            rule = present.permitting_rule(direction, workload, seen.remote, flow.row.protocol, seen.service, now)
            if rule is not None:
                return Cut(flow, direction, workload, seen, rule)
    return Cut(flow, flow.direction, workload or HOST_WORKLOAD, side(flow.row, flow.direction), "")
