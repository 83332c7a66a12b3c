"""Which flows a selector's workloads had, and what the policy in force would make of them were it enforced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

from segctl.model.inventory import Host, Inventory
from segctl.model.policy import HOST_WORKLOAD, Mode, ModeRule, Policy, Selector, Tags
from segctl.policy.decide import Decision, Instance, effective_mode, selects
from segctl.policy.life.readiness import SeenKind
from segctl.policy.life.season import DAY_US
from segctl.policy.selectors import InstanceFinder
from segctl.proto.v1 import admin_pb2
from segctl.wire import address_from_wire, denied_service_from_wire

from segctl_controller.deniedflows import as_flows_have_it, process_of
from segctl_controller.flowstore.claiming import Claims
from segctl_controller.flowstore.decisions import parse_tags
from segctl_controller.flowstore.draft import judge
from segctl_controller.flowstore.records import DraftRow, KindRow
from segctl_controller.flowstore.wire import PROTOCOLS, address_of, remote_of, service_of
from segctl_controller.store.records import DenialRecord

WOULD_DENY = "would-deny"
MOST_GROUPS = 100_000
"""Of tags, read once each."""
Place = tuple[str, str, bool, str | None, bytes, int, int]


@dataclass(frozen=True, slots=True)
class Target:
    """A selector on its way to the mode `next` (None: it enforces), and which of the marks its flows count from."""

    select: Selector
    next: Mode | None
    mark: int

    def is_ahead_of(self, mode: Mode) -> bool:
        """Whether it would change a workload in this mode; of one that enforces, all are of interest."""
        return self.next is None or mode.strictness < self.next.strictness


class Classes:
    """Of hosts with the same tags, the workloads; and which targets would change each of them."""

    def __init__(self, policy: Policy, targets: Sequence[Target]) -> None:
        self._policy, self._targets = policy, targets
        self._finder = InstanceFinder(policy)
        self._known: dict[tuple[str, str], tuple[int, ...]] = {}

    def chosen(self, tags: str, workload: str) -> tuple[int, ...]:
        """Numbers of the targets that select it and that it is not beyond yet."""
        known = self._known.get((tags, workload))
        if known is None:
            here = {i.workload: i for i in self._finder.of(Host("", parse_tags(tags)))}
            known = self._known[tags, workload] = self._of(here.get(workload) or here[HOST_WORKLOAD])
        return known

    def _of(self, instance: Instance) -> tuple[int, ...]:
        mode = effective_mode(self._policy, instance)
        return tuple(
            at
            for at, target in enumerate(self._targets)
            if target.is_ahead_of(mode) and selects(target.select, instance)
        )

    def hosts(self, inventory: Inventory) -> list[int]:
        """How many have such a workload, of each target."""
        found = [0] * len(self._targets)
        for tags, number in Counter(host.tags for host in inventory.hosts.values()).items():
            for at in {at for instance in self._finder.of(Host("", tags)) for at in self._of(instance)}:
                found[at] += number
        return found


def kinds_of(
    rows: Sequence[KindRow], classes: Classes, targets: Sequence[Target], policy: Policy, now: datetime
) -> list[list[SeenKind]]:
    """Those of each target. The last mark of the rows' flows is a day ago."""
    enforced = replace(policy, modes=(ModeRule(Selector(), Mode.ENFORCE),))
    chosen = [(row, places) for row in rows if (places := classes.chosen(row.row.tags, row.row.workload))]
    verdicts = dict(judge([row.row for row, _ in chosen], enforced, now).denied)
    found: list[list[SeenKind]] = [[] for _ in targets]
    tags = lru_cache(MOST_GROUPS)(parse_tags)
    for number, (row, places) in enumerate(chosen):
        for at in places:
            found[at].append(_kind(row, verdicts.get(number), row.flows[targets[at].mark], tags))
    return found


def _kind(row: KindRow, denied: Decision | None, flows: int, tags: Callable[[str], Tags]) -> SeenKind:
    one = row.row
    bounded = denied is not None and denied.reason == "boundary"
    return SeenKind(
        workload=one.workload,
        process=row.process,
        tags=tags(one.tags),
        host=one.host,
        peer=address_of(one.remote) if one.peer_tags is None else tags(one.peer_tags),
        peer_host=one.peer,
        ingress=one.ingress,
        service=service_of(one.protocol, one.port),
        flows=flows,
        recent=row.flows[-1],
        last_us=one.last_us,
        days=row.days,
        explained="rule" if denied is None else "boundary" if bounded else "default",
    )


def with_denials(
    rows: Iterable[KindRow],
    denials: Iterable[DenialRecord],
    keys: frozenset[str],
    marks: Sequence[int],
    first_day: int,
    claims: Claims,
) -> list[KindRow]:
    """And what was let through although no rule permits it: short connections are in no flow. Of one kind that both
    tell of, the larger number counts."""
    known: dict[Place, KindRow] = {_place(row.row): row for row in rows}
    for denial in denials:
        told = _row(denial, keys, marks, first_day, claims)
        if told is not None:
            other = known.get(_place(told.row))
            known[_place(told.row)] = _joined(other, told) if other else told
    return list(known.values())


def _place(row: DraftRow) -> Place:
    return row.tags, row.workload, row.ingress, row.peer_tags, row.remote, row.protocol, row.port


def _joined(one: KindRow, other: KindRow) -> KindRow:
    row = replace(one.row, last_us=max(one.row.last_us, other.row.last_us))
    process = one.process or other.process
    return KindRow(row, tuple(map(max, one.flows, other.flows)), one.days | other.days, process)


def _row(
    record: DenialRecord, keys: frozenset[str], marks: Sequence[int], first_day: int, claims: Claims
) -> KindRow | None:
    denied = admin_pb2.DeniedConnection.FromString(record.body)
    if denied.denial.verdict != WOULD_DENY:
        return None
    service = denied_service_from_wire(denied.denial.service)
    numbered = service.protocol in PROTOCOLS
    process = as_flows_have_it(denied.denial.process)
    row = DraftRow(
        tags=_tags(denied.tags, keys),
        workload=claims.of(_tags(denied.tags, keys), record.workload, process),
        ingress=denied.denial.ingress,
        peer_tags=_tags(denied.peer_tags, keys) if denied.peer_host else None,
        remote=b"" if denied.peer_host else remote_of(address_from_wire(denied.denial.remote)),
        protocol=PROTOCOLS[service.protocol] if numbered else service.low,
        port=service.low if numbered else 0,
        flows=record.count,
        last_us=record.last_us,
        host=record.host,
        peer=denied.peer_host,
    )
    days = {max(then // DAY_US - first_day, 0) for then in (record.first_us, record.last_us)}
    flows = tuple(record.count if record.last_us >= mark else 0 for mark in marks)
    return KindRow(row, flows, sum(1 << day for day in days), process_of(denied.denial.process))


def _tags(tags: Mapping[str, str], keys: frozenset[str]) -> str:
    return str(Tags.of((key, value) for key, value in tags.items() if key in keys))
