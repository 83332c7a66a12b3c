"""What a draft would make of the flows of the past: what it would block, what it would come to allow, span by span.

Each end is judged by itself, as its host would: a connection between two hosts counts at each end that changes its
mind.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from segctl.model.policy import Policy, Rule
from segctl.proto.v1 import admin_pb2
from segctl.wire import port_range_to_wire

from segctl_controller.clock import Clock
from segctl_controller.deniedrows import DENIED, DeniedRows
from segctl_controller.enrich import declared_service
from segctl_controller.errors import InvalidRequestError
from segctl_controller.fleet import Fleet
from segctl_controller.flowrequests import span_of
from segctl_controller.flowstore.claiming import Claims
from segctl_controller.flowstore.decisions import parse_tags
from segctl_controller.flowstore.draft import judge
from segctl_controller.flowstore.draftrows import DraftRows
from segctl_controller.flowstore.judging import EndSaid, Said
from segctl_controller.flowstore.records import MINUTE_US, DraftRow, MapFilter, MapRow
from segctl_controller.flowstore.thread import FlowThread
from segctl_controller.flowstore.wire import address_of, service_of
from segctl_controller.mapquestions import Bench, MapQuestions
from segctl_controller.store.records import DenialFilter, DenialRecord
from segctl_controller.store_thread import StoreThread

MOST_KINDS = 200_000
"""Kinds of flows that a draft is judged by, those with most flows first."""
MOST_DENIALS = 20_000
MOST_SHOWN = 10_000
MOST_SPANS = 100
MOST_PROCESSES = 5
Kind = tuple[str, str, bool, str | None, int, int, int]
"""Tags, workload, ingress, peer's tags or None, range of the address, protocol and port."""


@dataclass(slots=True)
class _Change:
    """A kind of flows whose fate changes at its local end: what the policy in force says, and the draft. `denied` of
    its flows are connections that were denied."""

    row: DraftRow
    was: EndSaid
    will: EndSaid
    denied: int = 0


@dataclass(frozen=True, slots=True)
class _Benches:
    """The policy in force, and the draft."""

    active: Bench
    draft: Bench

    def said(self, row: DraftRow | MapRow) -> tuple[EndSaid, EndSaid]:
        """Of the local end, by both: by each as the workload that it gives the process."""
        place = (row.remote if row.peer_tags is None else row.peer_tags, row.protocol, row.port)
        was = row.workload if row.was is None else row.was
        return (
            self.active.judge.end(row.ingress, row.tags, was, *place),
            self.draft.judge.end(row.ingress, row.tags, row.workload, *place),
        )

    def allows(self, row: DraftRow | MapRow) -> tuple[EndSaid, EndSaid] | None:
        """What both say, where the draft comes to allow it."""
        was, will = self.said(row)
        return (was, will) if was.said is not Said.ALLOWED and will.said is Said.ALLOWED else None

    def kind(self, row: DraftRow | MapRow) -> Kind:
        place = self.draft.peers.ranges.at(row.remote) if row.peer_tags is None else -1
        return row.tags, row.workload, row.ingress, row.peer_tags, place, row.protocol, row.port


class WhatIf:
    """Questions wait for one another, and nothing else waits for them."""

    def __init__(self, fleet: Fleet, db: StoreThread, flows: FlowThread, clock: Clock, maps: MapQuestions) -> None:
        self._fleet = fleet
        self._db = db
        self._flows = flows
        self._clock = clock
        self._maps = maps
        self._denied = DeniedRows()

    async def impact(
        self, policy: Policy, request: admin_pb2.DraftImpactFlowsRequest
    ) -> admin_pb2.DraftImpactFlowsReply:
        """Raises InvalidRequestError."""
        since, until = span_of(request.since_us, request.until_us)
        begins = _begins(since, until or self._clock.now_us(), request.span_us)
        benches = _Benches(await self._maps.in_force(), await self._maps.draft(policy))
        keys, store = benches.active.keys | benches.draft.keys, self._flows.store
        claims = Claims(policy, benches.active.policy)
        wanted = MapFilter(
            MOST_KINDS, since, until, keys, benches.draft.peers.ranges.starts, hosts=True, processes=True
        )
        rows = await self._flows.read(store.judged_alike, since, until, MOST_KINDS, keys, claims)
        denials = await self._db.call(self._db.store.denials, DenialFilter(MOST_DENIALS, since_us=since))
        denied = await asyncio.to_thread(self._rows_of, denials, wanted, benches, claims)
        blocked, allowed = await asyncio.to_thread(self._changes, rows, denied, benches)
        limit = min(request.limit or 100, MOST_SHOWN)
        accepted: Sequence[MapRow] = ()
        if blocked or allowed:
            accepted = _claimed(await self._flows.read(store.map, replace(wanted, hosts=False)), claims)
        names = await asyncio.to_thread(_processes, (*accepted, *denied), benches.kind)
        now, then = (_by_name(bench.policy) for bench in (benches.active, benches.draft))
        reply = admin_pb2.DraftImpactFlowsReply(
            blocked=[_wire(one, one.was, policy, now, names(one.row)) for one in blocked[:limit]],
            blocked_kinds=len(blocked),
            blocked_flows=_flows_of(blocked),
            newly_blocked_flows=_flows_of(one for one in blocked if one.was.said is not Said.DENIED),
            allowed=[_wire(one, one.will, policy, then, names(one.row)) for one in allowed[:limit]],
            allowed_kinds=len(allowed),
            allowed_flows=_flows_of(allowed),
            judged_flows=sum(rows.flows),
            more=len(rows) == MOST_KINDS,
            since_us=since,
            until_us=until,
        )
        if begins:
            spans = replace(wanted, hosts=False, processes=not claims.empty, span_us=request.span_us)
            told = _claimed(await self._flows.read(store.map, spans), claims)
            reply.spans.extend(await asyncio.to_thread(_spans, told, denied, begins, request.span_us, benches))
            reply.more = reply.more or len(told) == MOST_KINDS
        return reply

    def _rows_of(
        self, denials: Sequence[DenialRecord], wanted: MapFilter, benches: _Benches, claims: Claims
    ) -> list[MapRow]:
        draft = benches.draft
        rows = self._denied.among(denials, wanted, draft.policy, draft.peers, self._fleet.hosts, DENIED)
        return _claimed(rows.values(), claims)

    def _changes(
        self, rows: DraftRows, denied: Iterable[MapRow], benches: _Benches
    ) -> tuple[list[_Change], list[_Change]]:
        """What would be blocked, and what would come to be allowed; most flows first."""
        verdicts = judge(rows, benches.draft.policy, self._clock.now())
        blocked = [_Change(one.row, *benches.said(one.row)) for one in verdicts.blocked]
        allowed: dict[tuple[object, ...], _Change] = {}
        for row in rows:
            ends = benches.allows(row)
            if ends:
                allowed[_place(row)] = _Change(row, *ends)
        for refused in denied:
            ends = benches.allows(refused)
            if ends:
                known = allowed.get(_place(refused)) or _Change(_without_flows(refused), *ends)
                last = max(known.row.last_us, refused.last_us)
                known.row = replace(known.row, flows=known.row.flows + refused.flows, last_us=last)
                known.denied += refused.flows
                allowed[_place(refused)] = known
        return blocked, sorted(allowed.values(), key=lambda one: -one.row.flows)


def _claimed(rows: Iterable[MapRow], claims: Claims) -> list[MapRow]:
    """Of the workloads that have their processes by the draft, and by the policy before."""
    return [_claimed_row(row, claims) for row in rows]


def _claimed_row(row: MapRow, claims: Claims) -> MapRow:
    end = (row.tags, row.workload, row.process)
    now, was = claims.of(*end), claims.was(*end)
    return row if now == was == row.workload else replace(row, workload=now, was=None if was == now else was)


def _place(row: DraftRow | MapRow) -> tuple[object, ...]:
    return row.tags, row.workload, row.was, row.ingress, row.peer_tags, row.remote, row.protocol, row.port


def _without_flows(row: MapRow) -> DraftRow:
    place = (row.tags, row.workload, row.ingress, row.peer_tags, row.remote, row.protocol, row.port)
    return DraftRow(*place, flows=0, last_us=row.last_us, host=row.host, peer=row.peer, was=row.was)


def _by_name(policy: Policy) -> dict[str, Rule]:
    return {rule.name: rule for rule in policy.rules}


def _flows_of(changes: Iterable[_Change]) -> int:
    return sum(one.row.flows for one in changes)


def _processes(rows: Iterable[MapRow], kind: Callable[[DraftRow | MapRow], Kind]) -> Callable[[DraftRow], list[str]]:
    """The processes of a kind, those with most flows first."""
    known: dict[Kind, Counter[str]] = {}
    for row in rows:
        if row.process:
            known.setdefault(kind(row), Counter())[row.process] += row.flows
    return lambda row: [name for name, _ in known.get(kind(row), Counter[str]()).most_common(MOST_PROCESSES)]


def _begins(since_us: int, until_us: int, span_us: int) -> list[int]:
    """When the spans of a replay begin; none without one. Raises InvalidRequestError."""
    if not span_us:
        return []
    if span_us < MINUTE_US or span_us % MINUTE_US:
        raise InvalidRequestError("span_us is a whole number of minutes")
    first = since_us - since_us % span_us
    if not 0 < (until_us - first) // span_us < MOST_SPANS:
        raise InvalidRequestError(f"a replay has at least one span, and at most {MOST_SPANS}")
    return list(range(first, until_us, span_us))


def _spans(
    rows: Iterable[MapRow], denied: Iterable[MapRow], begins: Sequence[int], length_us: int, benches: _Benches
) -> Iterator[admin_pb2.ImpactSpan]:
    """Of each span how many flows the draft would have blocked, and come to allow. A denied connection is of the span
    in which it was denied last."""
    judged, blocked, allowed = Counter[int](), Counter[int](), Counter[int]()
    for row in rows:
        judged[row.span_us] += row.flows
        blocked[row.span_us] += row.flows if benches.said(row)[1].said is Said.DENIED else 0
        allowed[row.span_us] += row.flows if benches.allows(row) else 0
    for row in denied:
        allowed[row.last_us - row.last_us % length_us] += row.flows if benches.allows(row) else 0
    for begin in begins:
        yield admin_pb2.ImpactSpan(
            since_us=begin,
            until_us=begin + length_us,
            judged_flows=judged[begin],
            blocked_flows=blocked[begin],
            allowed_flows=allowed[begin],
        )


def _wire(
    one: _Change, concerned: EndSaid, policy: Policy, rules: dict[str, Rule], processes: list[str]
) -> admin_pb2.BlockedFlow:
    """`concerned`: the end whose rule has the owner to talk to."""
    row, service = one.row, service_of(one.row.protocol, one.row.port)
    rule = rules.get(concerned.decision.name) if concerned.decision.reason == "rule" else None
    return admin_pb2.BlockedFlow(
        host=row.host,
        workload=row.workload,
        ingress=row.ingress,
        tags=dict(parse_tags(row.tags).pairs),
        peer_host=row.peer,
        peer_tags=dict(parse_tags(row.peer_tags or "").pairs),
        remote=b"" if row.peer_tags is not None else address_of(row.remote).packed,
        service=port_range_to_wire(service),
        service_name=declared_service(policy, service),
        flows=row.flows,
        last_seen_us=row.last_us,
        reason=one.will.decision.reason,
        rule=one.will.decision.name,
        was=one.was.said.words,
        was_rule=one.was.decision.name,
        owner=rule.owner if rule else "",
        processes=processes,
        denied=one.denied,
    )
