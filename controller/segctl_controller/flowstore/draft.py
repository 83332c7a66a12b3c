"""What a draft would make of accepted flows: each kind of them is judged once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from segctl.model.policy import Mode, Policy, PortRange
from segctl.policy.decide import Decision

from segctl_controller.flowstore.decisions import Decisions
from segctl_controller.flowstore.dictionary import NONE
from segctl_controller.flowstore.draftrows import DraftRows
from segctl_controller.flowstore.records import DraftRow
from segctl_controller.flowstore.wire import service_of


@dataclass(frozen=True, slots=True)
class Blocked:
    row: DraftRow
    service: PortRange
    decision: Decision


@dataclass(frozen=True, slots=True)
class Verdicts:
    """`denied` is what would be blocked: places among `rows`, in their order, with the decision. `judged` flows were
    looked at."""

    rows: DraftRows
    denied: Sequence[tuple[int, Decision]]
    judged: int

    @property
    def blocked(self) -> tuple[Blocked, ...]:
        return self.first(len(self.denied))

    @property
    def blocked_flows(self) -> int:
        return sum(self.rows.flows[at] for at, _ in self.denied)

    def first(self, most: int) -> tuple[Blocked, ...]:
        """The first of `blocked`."""
        return tuple(_blocked(self.rows[at], decision) for at, decision in self.denied[:most])


def judge(rows: Iterable[DraftRow], policy: Policy, now: datetime) -> Verdicts:
    """Of each row the local end, as its host would: in the mode that its workload would have. Hosts are taken with the
    tags that they had at the time of the flow. Where a workload is no longer declared, its processes are `host`'s."""
    told = rows if isinstance(rows, DraftRows) else DraftRows.of(rows)
    decisions = Decisions(policy, now)
    groups = {number: decisions.group(told.groups[number] or "") for number in {*told.tags, *told.peer_tags} - {NONE}}
    services = {place: decisions.service(*place) for place in set(zip(told.protocol, told.port, strict=True))}
    names, enforce, denied = told.names, Mode.ENFORCE, []
    columns = (told.tags, told.workload, told.ingress, told.peer_tags, zip(told.protocol, told.port, strict=True))
    for at, (tags, workload, ingress, peer_tags, place) in enumerate(zip(*columns, strict=True)):
        here = groups[tags]
        local = here.member(names[workload])
        if local.mode is not enforce:
            continue
        if peer_tags:
            decision = decisions.between(ingress, here, local, groups[peer_tags], services[place])
        else:
            decision = decisions.outside(ingress, here, local, told.remote(at), services[place])
        if not decision.allowed:
            denied.append((at, decision))
    return Verdicts(told, denied, sum(told.flows))


def _blocked(row: DraftRow, decision: Decision) -> Blocked:
    return Blocked(row, service_of(row.protocol, row.port), decision)


def keys_of(policy: Policy) -> frozenset[str]:
    """The tag keys that it asks for anywhere: hosts that differ in others only are judged alike."""
    selectors = [end for rule in policy.rules for end in (rule.source, rule.destination)]
    selectors += [end for boundary in policy.boundaries for end in (boundary.source, boundary.destination)]
    selectors += [mode.select for mode in policy.modes]
    asked = {key for selector in selectors for key, _ in selector.tags.pairs}
    asked |= {key for workload in policy.workloads.values() for key, _ in (*workload.on.pairs, *workload.tags.pairs)}
    return frozenset(asked | {key for rule in policy.rules for key in rule.within})
