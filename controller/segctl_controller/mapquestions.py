"""The question for the map: the flows of a span of time between groups, hosts or workloads, judged by a policy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from segctl.model.policy import Policy
from segctl.policy.decide import next_end
from segctl.proto.v1 import admin_pb2

from segctl_controller.clock import Clock
from segctl_controller.deniedrows import DeniedRows
from segctl_controller.errors import InvalidRequestError
from segctl_controller.fleet import Fleet
from segctl_controller.flowends import TagAddresses
from segctl_controller.flowmap import Detail, Mapper
from segctl_controller.flowrequests import LONGEST_NAME, ends_of, protocol_of, span_of
from segctl_controller.flowstore.draft import keys_of
from segctl_controller.flowstore.judging import Judge
from segctl_controller.flowstore.outside import Peers
from segctl_controller.flowstore.records import MapFilter
from segctl_controller.flowstore.thread import FlowThread
from segctl_controller.mapwire import edges_to_wire
from segctl_controller.pastpolicies import InForce, PastPolicies
from segctl_controller.store.records import DenialFilter
from segctl_controller.store_thread import StoreThread

MOST_ROWS = 100_000
"""Kinds of flows that are judged, those with most flows first."""
MOST_EDGES = 10_000
MOST_DENIALS = 20_000
SETTLED_US = 60_000_000
"""After a push, until its policy and the network are compared: hosts take it, and flows that began before end."""
NEVER_US = 2**62


@dataclass(frozen=True, slots=True)
class Bench:
    """What flows are judged by. `ends`: when the next rule ends, and the judge is a new one."""

    number: int
    ends: datetime | None
    policy: Policy
    judge: Judge
    peers: Peers
    keys: frozenset[str]


class MapQuestions:
    """Questions wait for one another, and nothing else waits for them."""

    def __init__(self, fleet: Fleet, db: StoreThread, flows: FlowThread, clock: Clock) -> None:
        self._fleet = fleet
        self._db = db
        self._flows = flows
        self._clock = clock
        self._policies = PastPolicies(fleet, db, clock)
        self._denied = DeniedRows()
        self._bench: Bench | None = None

    async def map(self, request: admin_pb2.FlowMapRequest) -> admin_pb2.FlowMapReply:
        """Raises InvalidRequestError, NotFoundError for a generation or peer that is not there."""
        since, until = span_of(request.since_us, request.until_us)
        detail, by = _detail(request.detail), _keys(request.by)
        in_force = await self._asked(request)
        bench = await self._bench_of(in_force)
        limit, compared = min(request.limit or 1000, MOST_EDGES), _compared_since(in_force, since, until)
        ends = ends_of(request, bench.peers)
        wanted = MapFilter(
            limit=MOST_ROWS,
            since_us=since,
            until_us=until,
            keys=by and by | bench.keys | {key for end in ends if end for key, _ in end.tags},
            starts=bench.peers.ranges.starts,
            source=ends[0],
            destination=ends[1],
            protocol=protocol_of(request.protocol) if request.protocol else None,
            port=request.port if request.HasField("port") else None,
            hosts=detail.shown > 0 or any(end and end.host for end in ends),
            processes=detail is Detail.PROCESS or any(end and end.process for end in ends),
            blocks=detail.blocks or any(end and end.block for end in ends),
            fresh_us=compared or NEVER_US,
        )
        rows = await self._flows.read(self._flows.store.map, wanted)
        lost = await self._flows.read(self._flows.store.lost, "", since)
        denials = await self._db.call(self._db.store.denials, DenialFilter(MOST_DENIALS, since_us=since))
        mapper = Mapper(bench.judge, bench.peers.name, by, detail)

        def drawn() -> tuple[list[admin_pb2.MapEdge], int]:
            denied = self._denied.of(denials, wanted, bench.policy, bench.peers, self._fleet.hosts)
            edges, number = mapper.edges(rows, denied, limit)
            return edges_to_wire(edges, bench.policy, compared=bool(compared)), number

        edges, number = await asyncio.to_thread(drawn)
        return admin_pb2.FlowMapReply(
            edges=edges,
            more=number > limit or len(rows) == MOST_ROWS,
            lost=lost,
            generation=bench.number,
            compared_since_us=compared,
            more_denied=len(denials) == MOST_DENIALS,
        )

    async def _asked(self, request: admin_pb2.FlowMapRequest) -> InForce:
        if request.at_us < 0 or request.at_us > NEVER_US:
            raise InvalidRequestError("at_us is out of bounds")
        if request.generation:
            return await self._policies.generation(min(request.generation, NEVER_US))
        return await (self._policies.at(request.at_us) if request.at_us else self._policies.now())

    async def in_force(self) -> Bench:
        """Of the policy in force."""
        return await self._bench_of(await self._policies.now())

    async def draft(self, policy: Policy) -> Bench:
        return await asyncio.to_thread(self._made, InForce(0, policy, self._clock.now()), None)

    async def _bench_of(self, in_force: InForce) -> Bench:
        """Of the policy in force it is kept: what it learnt of tag groups is most of the work."""
        ends = next_end(in_force.policy, in_force.moment)
        kept = self._bench
        if kept is not None and kept.policy is in_force.policy and (kept.number, kept.ends) == (in_force.number, ends):
            return kept
        made = await asyncio.to_thread(self._made, in_force, ends)
        if in_force.policy is self._fleet.active.policy:
            self._bench = made
        return made

    def _made(self, in_force: InForce, ends: datetime | None) -> Bench:
        policy, keys = in_force.policy, keys_of(in_force.policy)
        judge = Judge(policy, in_force.moment, TagAddresses(self._fleet).of)
        return Bench(in_force.number, ends, policy, judge, Peers(policy), keys)


def _compared_since(in_force: InForce, since_us: int, until_us: int) -> int:
    """From when on the policy and the network are compared; 0: not at all, for another policy was in force too."""
    if in_force.until_us and (until_us or NEVER_US) > in_force.until_us:
        return 0
    if in_force.number and not in_force.since_us:
        return 0  # it never was in force
    return max(since_us, in_force.since_us + SETTLED_US if in_force.since_us else 1)


def _detail(text: str) -> Detail:
    try:
        return Detail(text)
    except ValueError as error:
        words = ", ".join(detail.value for detail in Detail if detail.value)
        raise InvalidRequestError(f"no detail {text[:40]!r}: it is empty, {words}") from error


def _keys(by: Sequence[str]) -> frozenset[str] | None:
    if len(by) > LONGEST_NAME or any(len(key) > LONGEST_NAME for key in by):
        raise InvalidRequestError(f"by names at most {LONGEST_NAME} tag keys of {LONGEST_NAME} characters")
    return frozenset(by) or None
