"""What operators ask of flows: a search, the map between tag groups, who talks most, what a draft would block."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from segctl.model.policy import Policy, PortRange
from segctl.proto.v1 import admin_pb2
from segctl.wire import port_range_to_wire

from segctl_controller.deniedflows import denied_flows
from segctl_controller.deniedrows import DeniedRows
from segctl_controller.enrich import declared_service
from segctl_controller.errors import InvalidRequestError, NotFoundError
from segctl_controller.fleet import Fleet
from segctl_controller.flowrequests import LONGEST_NAME, ends_of, network_of, protocol_of, span_of
from segctl_controller.flowstore.outside import Peers
from segctl_controller.flowstore.records import MAPPED, FarEnd, FlowFilter, FlowRecord, FlowVerdict, MapFilter, OtherEnd
from segctl_controller.flowstore.thread import FlowThread
from segctl_controller.flowstore.wire import remote_of, remotes_of, service_of
from segctl_controller.store.records import DenialFilter, DenialRecord
from segctl_controller.store.refusals import no_host
from segctl_controller.store_thread import StoreThread

MOST_FLOWS = 10_000
MOST_DENIALS = 100_000
MOST_KINDS = 200_000
"""Kinds of flows that a draft is judged by, those with most flows first."""
LONGEST_PROCESS = 4096
VERDICTS = {FlowVerdict.ALLOWED: "allowed", FlowVerdict.WOULD_DENY: "would-deny", FlowVerdict.OBSERVED: "observed"}
DENIED = "denied"


class FlowQuestions:
    """Questions wait for one another, and nothing else waits for them: each may read a million rows."""

    def __init__(self, fleet: Fleet, db: StoreThread, flows: FlowThread) -> None:
        self._fleet = fleet
        self._db = db
        self._flows = flows

    async def search(self, request: admin_pb2.FlowsRequest) -> admin_pb2.FlowsReply:
        """Raises InvalidRequestError, or NotFoundError for a host that is not enrolled."""
        if max(map(len, (request.host, request.workload, request.rule))) > LONGEST_NAME:
            raise InvalidRequestError(f"host, workload and rule have at most {LONGEST_NAME} characters")
        if len(request.process) > LONGEST_PROCESS:
            raise InvalidRequestError(f"process has at most {LONGEST_PROCESS} characters")
        if request.host and request.host not in self._fleet.hosts:
            raise NotFoundError(no_host(request.host))
        wanted = _filter(request, Peers(self._fleet.active.policy))
        if request.verdict == DENIED:
            return await self._denied(request, wanted)
        store = self._flows.store
        rows = await self._flows.read(store.flows, wanted)
        lost = await self._flows.read(store.lost, request.host, wanted.since_us)
        asked = {row: self._far_end(row) for row in rows if row.peer}
        told = await self._flows.read(store.far_ends, tuple(asked.values())) if asked else ()
        others = dict(zip(asked, told, strict=True))
        ends = [(row, others.get(row, OtherEnd())) for row in rows]
        # In a thread: ten thousand rows take longer than the heartbeats of the fleet should wait.
        found = await asyncio.to_thread(_found, ends, lost, self._fleet.active.policy)
        return _together(found, await self._denied(request, wanted), wanted.limit) if request.process else found

    def _far_end(self, row: FlowRecord) -> FarEnd:
        """Of our addresses only those of the family that the flow has: the others cannot be meant."""
        ours = self._fleet.hosts.get(row.key.host)
        version = 4 if row.key.remote.startswith(MAPPED) else 6
        remotes = tuple(remote_of(a) for a in (ours.addresses if ours else ()) if a.version == version)
        return FarEnd(row.peer, not row.key.ingress, remotes, row.key.protocol, row.key.port, row.last_us)

    async def _denied(self, request: admin_pb2.FlowsRequest, wanted: FlowFilter) -> admin_pb2.FlowsReply:
        """They are in the controller's database, and not by the minute: each row is seen from its first to its last."""
        every = DenialFilter(MOST_DENIALS, request.host, request.workload, wanted.since_us)
        rows = await self._db.call(self._db.store.denials, every)
        if wanted.source or wanted.destination:
            rows = await asyncio.to_thread(self._between, rows, wanted)
        lost = await self._db.call(self._db.store.lost, request.host, wanted.since_us)
        flows = await asyncio.to_thread(denied_flows, rows, wanted, request.verdict, request.process)
        return admin_pb2.FlowsReply(flows=flows, lost=lost)

    def _between(self, rows: tuple[DenialRecord, ...], wanted: FlowFilter) -> tuple[DenialRecord, ...]:
        """Those from one end of an edge to the other."""
        policy = self._fleet.active.policy
        between = MapFilter(
            wanted.limit,
            until_us=wanted.until_us,
            starts=wanted.starts,
            source=wanted.source,
            destination=wanted.destination,
            hosts=True,
            processes=True,
            blocks=True,
        )
        kept = DeniedRows().among(rows, between, policy, Peers(policy), self._fleet.hosts)
        return tuple(row for row in rows if row.id in kept)

    async def top(self, request: admin_pb2.TopTalkersRequest) -> admin_pb2.TopTalkersReply:
        """Raises InvalidRequestError."""
        since, until = span_of(request.since_us, request.until_us)
        found = await self._flows.read(self._flows.store.talkers, since, until, min(request.limit or 20, MOST_FLOWS))
        talkers = [
            admin_pb2.Talker(
                host=one.host,
                workload=one.workload,
                flows=one.flows,
                bytes_sent=one.bytes_sent,
                bytes_received=one.bytes_received,
                last_seen_us=one.last_us,
            )
            for one in found
        ]
        return admin_pb2.TopTalkersReply(talkers=talkers)


def _filter(request: admin_pb2.FlowsRequest, peers: Peers) -> FlowFilter:
    since, until = span_of(request.since_us, request.until_us)
    verdicts = {name: verdict for verdict, name in VERDICTS.items()}
    if request.verdict not in ("", DENIED, *verdicts):
        raise InvalidRequestError(f"no verdict {request.verdict[:40]!r}: it is {', '.join(verdicts)} or {DENIED}")
    source, destination = ends_of(request, peers)
    low, high = remotes_of(network_of(request.address)) if request.address else (b"", b"")
    return FlowFilter(
        limit=min(request.limit or 100, MOST_FLOWS),
        host=request.host,
        workload=request.workload,
        rule=request.rule,
        since_us=since,
        until_us=until,
        low=low,
        high=high,
        protocol=protocol_of(request.protocol) if request.protocol else None,
        port=request.port if request.HasField("port") else None,
        verdict=verdicts.get(request.verdict),
        process=request.process,
        source=source,
        destination=destination,
        starts=peers.ranges.starts,
    )


def _together(accepted: admin_pb2.FlowsReply, denied: admin_pb2.FlowsReply, limit: int) -> admin_pb2.FlowsReply:
    """The newest of both. What would be denied is told as a flow and as a denial: the flow stands for both."""
    seen = {_wire_place(flow) for flow in accepted.flows if flow.verdict == VERDICTS[FlowVerdict.WOULD_DENY]}
    others = [flow for flow in denied.flows if flow.verdict == DENIED or _wire_place(flow) not in seen]
    flows = sorted((*accepted.flows, *others), key=lambda flow: flow.last_seen_us)[-limit:]
    return admin_pb2.FlowsReply(flows=flows, lost=accepted.lost + denied.lost)


def _wire_place(flow: admin_pb2.FlowRecord) -> tuple[object, ...]:
    service = flow.service
    return flow.host, flow.workload, flow.ingress, flow.remote, service.protocol, service.low


def _found(ends: Sequence[tuple[FlowRecord, OtherEnd]], lost: int, policy: Policy) -> admin_pb2.FlowsReply:
    """Of rows, each with what its peer told."""
    services = {service_of(row.key.protocol, row.key.port) for row, _ in ends}
    names = {service: declared_service(policy, service) for service in services}
    return admin_pb2.FlowsReply(flows=[_view(row, other, names) for row, other in ends], lost=lost)


def _view(row: FlowRecord, other: OtherEnd, names: dict[PortRange, str]) -> admin_pb2.FlowRecord:
    key = row.key
    service = service_of(key.protocol, key.port)
    return admin_pb2.FlowRecord(
        host=key.host,
        workload=key.workload,
        ingress=key.ingress,
        remote=key.remote.removeprefix(MAPPED),
        peer_host=row.peer,
        peer_workload=other.workload or row.peer_workload,
        service=port_range_to_wire(service),
        service_name=names[service],
        rule=key.rule,
        verdict=VERDICTS[key.verdict],
        flows=row.flows,
        bytes_sent=row.bytes_sent,
        bytes_received=row.bytes_received,
        first_seen_us=row.first_us,
        last_seen_us=row.last_us,
        process=key.process,
        peer_process=other.process,
    )
