"""Denied connections as rows of the map: they are in the controller's database, and not by the minute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from segctl.model.policy import Policy
from segctl.proto.v1 import admin_pb2
from segctl.wire import address_from_wire

from segctl_controller.deniedflows import as_flows_have_it
from segctl_controller.flowstore.outside import Peers, block_of
from segctl_controller.flowstore.records import EndFilter, MapFilter, MapRow
from segctl_controller.flowstore.wire import PROTOCOLS, remote_of
from segctl_controller.store.records import DenialRecord, HostRecord

DENIED = "denied"


@dataclass(frozen=True, slots=True)
class _Denied:
    """What a row's body says. Tags are those of the workloads at the time of the denial, `key=value` each."""

    ingress: bool
    verdict: str
    remote: bytes
    protocol: int
    port: int
    tags: tuple[tuple[str, str], ...]
    peer: str
    peer_workload: str
    peer_tags: tuple[tuple[str, str], ...]
    process: str


class DeniedRows:
    """Bodies are read once. Only what the last question asked for is kept; by the body itself, for the id of a row may
    be given again when its host was removed."""

    def __init__(self) -> None:
        self._read: dict[bytes, _Denied] = {}

    def of(
        self,
        rows: Iterable[DenialRecord],
        wanted: MapFilter,
        policy: Policy,
        peers: Peers,
        hosts: Mapping[str, HostRecord],
    ) -> list[MapRow]:
        """Those that were denied, and not only would be: those are among the flows. Counts are of the whole time from a
        row's first to its last."""
        return list(self.among(rows, wanted, policy, peers, hosts, DENIED).values())

    def among(
        self,
        rows: Iterable[DenialRecord],
        wanted: MapFilter,
        policy: Policy,
        peers: Peers,
        hosts: Mapping[str, HostRecord],
        verdict: str = "",
    ) -> dict[int, MapRow]:
        """By the id of a row; `verdict` empty: all."""
        listed = list(rows)
        known = self._read = {row.body: self._read.get(row.body) or _read(row) for row in listed}
        made = {
            row.id: _row(row, known[row.body], wanted, policy, hosts)
            for row in listed
            if verdict in ("", known[row.body].verdict) and (not wanted.until_us or row.first_us <= wanted.until_us)
        }
        return {number: row for number, row in made.items() if _fits(row, wanted, peers)}


def _read(row: DenialRecord) -> _Denied:
    body = admin_pb2.DeniedConnection.FromString(row.body)
    denial, service = body.denial, body.denial.service
    return _Denied(
        ingress=denial.ingress,
        verdict=denial.verdict,
        remote=remote_of(address_from_wire(denial.remote)),
        protocol=PROTOCOLS.get(service.protocol, service.low),
        port=service.low if service.protocol in PROTOCOLS else 0,
        tags=tuple(sorted(body.tags.items())),
        peer=body.peer_host,
        peer_workload=body.peer_workload,
        peer_tags=tuple(sorted(body.peer_tags.items())),
        process=as_flows_have_it(denial.process),
    )


def _row(
    row: DenialRecord,
    denied: _Denied,
    wanted: MapFilter,
    policy: Policy,
    hosts: Mapping[str, HostRecord],
) -> MapRow:
    outside = not denied.peer
    return MapRow(
        tags=_tags(denied.tags, row.host, row.workload, wanted, policy, hosts),
        workload=row.workload,
        ingress=denied.ingress,
        peer_tags=None
        if outside
        else _tags(denied.peer_tags, denied.peer, denied.peer_workload, wanted, policy, hosts),
        peer_workload="" if denied.ingress else denied.peer_workload,
        remote=denied.remote if outside else b"",
        protocol=denied.protocol,
        port=denied.port,
        flows=row.count,
        fresh=row.count if row.last_us >= wanted.fresh_us else 0,
        last_us=row.last_us,
        host=row.host if wanted.hosts else "",
        peer=denied.peer if wanted.hosts else "",
        process=denied.process if wanted.processes else "",
        block=remote_of(block_of(denied.remote).network_address) if wanted.blocks and outside else b"",
    )


def _tags(
    tags: Sequence[tuple[str, str]],
    host: str,
    workload: str,
    wanted: MapFilter,
    policy: Policy,
    hosts: Mapping[str, HostRecord],
) -> str:
    """Of the host: what the workload carries of its own is left out, and is as the host has it now."""
    declared = policy.workloads.get(workload)
    own = {key for key, _ in declared.tags.pairs} if declared else set[str]()
    if own:
        record = hosts.get(host)
        now = record.tags.pairs if record else ()
        tags = sorted([*(pair for pair in tags if pair[0] not in own), *(pair for pair in now if pair[0] in own)])
    return ",".join(f"{key}={value}" for key, value in tags if wanted.keys is None or key in wanted.keys)


def _fits(row: MapRow, wanted: MapFilter, peers: Peers) -> bool:
    if wanted.protocol not in (None, row.protocol) or wanted.port not in (None, row.port):
        return False
    near, far = (wanted.destination, wanted.source) if row.ingress else (wanted.source, wanted.destination)
    return _is(near, row.tags, row.host, row.workload, row.process) and (
        _is_outside(far, row, peers)
        if row.peer_tags is None
        else _is(far, row.peer_tags, row.peer, row.peer_workload, "")
    )


def _is(end: EndFilter | None, tags: str, host: str, workload: str, process: str) -> bool:
    if end is None:
        return True
    if end.outside or end.host not in ("", host):
        return False
    if (end.workload and workload not in ("", end.workload)) or (end.process and process not in ("", end.process)):
        return False
    return end.carried(tags)


def _is_outside(end: EndFilter | None, row: MapRow, peers: Peers) -> bool:
    if end is None:
        return True
    if not end.outside or (end.places is not None and peers.ranges.at(row.remote) not in end.places):
        return False
    return end.block is None or end.block[0] <= row.block <= end.block[1]
