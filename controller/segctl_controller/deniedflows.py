"""Denied connections in the form of flows, for a search that asks for what was accepted and what was not alike."""

from __future__ import annotations

from collections.abc import Sequence

from segctl.model.processes import (
    CONTAINER,
    USER,
    executable_identity,
    identity,
    is_called,
    is_identity,
    unit_identity,
)
from segctl.proto.v1 import admin_pb2, agent_pb2
from segctl.wire import address_from_wire

from segctl_controller.flowstore.records import FlowFilter
from segctl_controller.flowstore.wire import PROTOCOLS, remote_of
from segctl_controller.store.records import DenialRecord


def denied_flows(
    rows: Sequence[DenialRecord], wanted: FlowFilter, verdict: str, process: str
) -> list[admin_pb2.FlowRecord]:
    """Those of `wanted`, `verdict` and `process` (empty: all), the newest last."""
    found = []
    for row in sorted(rows, key=lambda row: row.last_us):
        denied = admin_pb2.DeniedConnection.FromString(row.body)
        if (verdict in ("", denied.denial.verdict)) and _fits(row, denied, wanted) and _is(denied.denial, process):
            found.append(_view(row, denied))
    return found[-wanted.limit :]


def _fits(row: DenialRecord, denied: admin_pb2.DeniedConnection, wanted: FlowFilter) -> bool:
    service, remote = denied.denial.service, _remote(denied.denial)
    protocol = PROTOCOLS.get(service.protocol, service.low)
    port = service.low if service.protocol in PROTOCOLS else None
    return (
        (not wanted.until_us or row.first_us <= wanted.until_us)
        and (not wanted.rule or denied.rule == wanted.rule)
        and (not wanted.low or wanted.low <= remote <= wanted.high)
        and wanted.protocol in (None, protocol)
        and wanted.port in (None, port)
    )


def _is(denial: agent_pb2.Denial, process: str) -> bool:
    known = denial.process
    return not process or is_called(process_of(known), process) or is_called(unit_identity(known.unit), process)


def process_of(known: agent_pb2.ProcessInfo) -> str:
    """Of a denial the program is known where the socket was found in time, and says most."""
    return executable_identity(known.exe) or unit_identity(known.unit) or identity(USER, known.user)


def as_flows_have_it(known: agent_pb2.ProcessInfo) -> str:
    """As flows have it: what runs in a login is its executable, where that is known. An agent calls a container
    `container:NAME` in the place of a unit."""
    if known.unit.startswith(f"{CONTAINER}:"):
        return known.unit if is_identity(known.unit) else ""
    return unit_identity(known.unit) or executable_identity(known.exe) or identity(USER, known.user)


def _remote(denial: agent_pb2.Denial) -> bytes:
    return remote_of(address_from_wire(denial.remote))


def _view(row: DenialRecord, denied: admin_pb2.DeniedConnection) -> admin_pb2.FlowRecord:
    denial = denied.denial
    return admin_pb2.FlowRecord(
        host=row.host,
        workload=row.workload,
        ingress=denial.ingress,
        remote=denial.remote,
        peer_host=denied.peer_host,
        peer_workload=denied.peer_workload,
        service=denial.service,
        service_name=denied.service_name,
        rule=denied.rule,
        verdict=denial.verdict,
        flows=row.count,
        first_seen_us=row.first_us,
        last_seen_us=row.last_us,
        process=process_of(denial.process),
    )
