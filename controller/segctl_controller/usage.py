"""What the fleet's rules are used for: flows with both of their ends, and how often each rule was hit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

from segctl.model.inventory import Address
from segctl.model.policy import Policy, PortRange
from segctl.proto.v1 import admin_pb2
from segctl.wire import port_range_to_wire

from segctl_controller.enrich import declared_service
from segctl_controller.errors import InvalidRequestError, NotFoundError
from segctl_controller.fleet import Fleet
from segctl_controller.store.records import FarEnd, FlowFilter, FlowKey, FlowRecord, FlowVerdict, RuleUse
from segctl_controller.store.refusals import no_host
from segctl_controller.store_thread import StoreThread

MOST_FLOWS = 10_000
LONGEST_NAME = 64
VERDICTS = {FlowVerdict.ALLOWED: "allowed", FlowVerdict.WOULD_DENY: "would-deny", FlowVerdict.OBSERVED: "observed"}
MAPPED = b"\0" * 10 + b"\xff\xff"
"""What stands before an IPv4 address in the 16 bytes of a remote (RFC 4291 2.5.5.2)."""


class Usage:
    """Questions wait for one another, and nothing else waits for them: each may read a million rows."""

    def __init__(self, fleet: Fleet, db: StoreThread) -> None:
        self._fleet = fleet
        self._db = db

    async def flows(self, request: admin_pb2.FlowsRequest) -> admin_pb2.FlowsReply:
        """Raises InvalidRequestError, or NotFoundError for a host that is not enrolled."""
        _bounded(request.host, request.workload, request.rule)
        if request.since_us < 0:
            raise InvalidRequestError("since_us is out of bounds")
        if request.host and request.host not in self._fleet.hosts:
            raise NotFoundError(no_host(request.host))
        limit = min(request.limit or 100, MOST_FLOWS)
        wanted = FlowFilter(limit, request.host, request.workload, request.rule, min(request.since_us, 2**62))
        store = self._db.store
        rows = await self._db.read(store.flows, wanted)
        lost = await self._db.read(store.flows_lost, request.host, wanted.since_us)
        peers = [self._fleet.holders.get(_address(row.key.remote), "") for row in rows]
        asked = {row: self._far_end(row, peer) for row, peer in zip(rows, peers, strict=True) if peer}
        found = await self._db.read(store.far_ends, tuple(asked.values())) if asked else ()
        workloads = dict(zip(asked, found, strict=True))
        ends = [(row, peer, workloads.get(row, "")) for row, peer in zip(rows, peers, strict=True)]
        # In a thread: ten thousand rows take longer than the heartbeats of the fleet should wait.
        views = await asyncio.to_thread(_views, ends, self._fleet.active.policy)
        return admin_pb2.FlowsReply(flows=views, lost=lost)

    def _far_end(self, row: FlowRecord, peer: str) -> FarEnd:
        """Of our addresses only those of the family that the flow has: the others cannot be meant."""
        ours = self._fleet.hosts.get(row.key.host)
        version = 4 if row.key.remote.startswith(MAPPED) else 6
        remotes = tuple(_column(a) for a in (ours.addresses if ours else ()) if a.version == version)
        return FarEnd(peer, not row.key.ingress, remotes, row.key.protocol, row.key.port, row.last_us)

    async def rules(self, request: admin_pb2.RuleUseRequest) -> admin_pb2.RuleUseReply:
        """Rules of the active policy, hit or not, and rules of earlier ones that were hit; by name."""
        _bounded(request.rule)
        used = {use.rule: use for use in await self._db.read(self._db.store.rule_use, request.rule)}
        policy = {rule.name for rule in self._fleet.active.policy.rules}
        wanted = {request.rule} & (policy | set(used)) if request.rule else policy | set(used)
        if request.rule and not wanted:
            raise NotFoundError(
                f"no rule {request.rule!r} is in the policy in force, and none of that name was ever hit"
            )
        return admin_pb2.RuleUseReply(rules=[_use(name, used.get(name), name in policy) for name in sorted(wanted)])


def _views(ends: Sequence[tuple[FlowRecord, str, str]], policy: Policy) -> list[admin_pb2.FlowRecord]:
    """Of rows, each with its peer and the peer's workload."""
    services = {service_of(row.key) for row, _, _ in ends}
    names = {service: declared_service(policy, service) for service in services}
    return [_view(row, peer, peer_workload, names[service_of(row.key)]) for row, peer, peer_workload in ends]


def _view(row: FlowRecord, peer: str, peer_workload: str, name: str) -> admin_pb2.FlowRecord:
    key = row.key
    return admin_pb2.FlowRecord(
        host=key.host,
        workload=key.workload,
        ingress=key.ingress,
        remote=key.remote.removeprefix(MAPPED),
        peer_host=peer,
        peer_workload=peer_workload,
        service=port_range_to_wire(service_of(key)),
        service_name=name,
        rule=key.rule,
        verdict=VERDICTS[key.verdict],
        flows=row.flows,
        bytes_sent=row.bytes_sent,
        bytes_received=row.bytes_received,
        first_seen_us=row.first_us,
        last_seen_us=row.last_us,
    )


def service_of(key: FlowKey) -> PortRange:
    """As denials name it: other IP protocols are `ip` with their number (IANA protocol numbers)."""
    if key.protocol == 6:
        return PortRange("tcp", key.port, key.port)
    if key.protocol == 17:
        return PortRange("udp", key.port, key.port)
    if key.protocol == 1:
        return PortRange("icmp", key.port, key.port)
    if key.protocol == 58:
        return PortRange("icmpv6", key.port, key.port)
    return PortRange("ip", key.protocol, key.protocol)


def _use(name: str, use: RuleUse | None, in_policy: bool) -> admin_pb2.RuleUse:
    if use is None:
        return admin_pb2.RuleUse(rule=name, in_policy=in_policy)
    # Both ends of one connection count it where both are managed: the end that saw more has seen all of them.
    count = max(use.egress, use.ingress)
    return admin_pb2.RuleUse(rule=name, count=count, last_hit_us=use.last_us, hosts=use.hosts, in_policy=in_policy)


def _address(column: bytes) -> Address:
    return IPv4Address(column[12:]) if column.startswith(MAPPED) else IPv6Address(column)


def _column(address: Address) -> bytes:
    return MAPPED + address.packed if address.version == 4 else address.packed


def _bounded(*names: str) -> None:
    if any(len(name) > LONGEST_NAME for name in names):
        raise InvalidRequestError(f"host, workload and rule have at most {LONGEST_NAME} characters")
