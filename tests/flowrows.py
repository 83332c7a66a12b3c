"""Flows for tests of the flow store: rows by hand, put into the columns of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import numpy as np
from segctl_controller.flowstore.columns import FlowColumns, split_remotes
from segctl_controller.flowstore.records import HOUR_US, FlowKey, FlowRecord, FlowReport, FlowVerdict

NOW = 500_000 * HOUR_US


@dataclass(slots=True)
class KnownEnds:
    """A fleet that only tests know: tags by host, hosts by address, workloads by what listens."""

    tags_of: dict[str, str] = field(default_factory=dict)
    holders: dict[bytes, str] = field(default_factory=dict)
    listeners: dict[tuple[str, int, int], str] = field(default_factory=dict)
    revision: int = 0

    def tags(self, host: str) -> str:
        return self.tags_of.get(host, "")

    def holder(self, remote: bytes) -> str:
        return self.holders.get(remote, "")

    def listener(self, host: str, protocol: int, port: int) -> str:
        return self.listeners.get((host, protocol, port), "")


def mapped(text: str) -> bytes:
    return b"\0" * 10 + b"\xff\xff" + ip_address(text).packed


def key(host: str = "web1", port: int = 5432, **fields: object) -> FlowKey:
    made = FlowKey(host, "shop-web", False, mapped("10.0.0.2"), 6, port, "web-db", FlowVerdict.ALLOWED)
    return replace(made, **fields)  # type: ignore[arg-type]


def flow(of: FlowKey | None = None, at: int = NOW, flows: int = 1, sent: int = 10) -> FlowRecord:
    return FlowRecord(of or key(), flows, sent, 2 * sent, at - 5, at)


def columns(flows: Sequence[FlowRecord]) -> FlowColumns:
    workloads = tuple(dict.fromkeys(f.key.workload for f in flows))
    rules = tuple(dict.fromkeys(f.key.rule for f in flows))
    processes = tuple(dict.fromkeys(f.key.process for f in flows))
    high, low = split_remotes(b"".join(f.key.remote for f in flows))

    def of(values: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array(values, dtype=np.int64)

    return FlowColumns(
        workloads=workloads,
        rules=rules,
        processes=processes,
        workload=of([workloads.index(f.key.workload) for f in flows]),
        rule=of([rules.index(f.key.rule) for f in flows]),
        process=of([processes.index(f.key.process) for f in flows]),
        ingress=of([f.key.ingress for f in flows]),
        remote_high=high,
        remote_low=low,
        protocol=of([f.key.protocol for f in flows]),
        port=of([f.key.port for f in flows]),
        verdict=of([f.key.verdict for f in flows]),
        flows=of([f.flows for f in flows]),
        bytes_sent=of([f.bytes_sent for f in flows]),
        bytes_received=of([f.bytes_received for f in flows]),
        first_us=of([f.first_us for f in flows]),
        last_us=of([f.last_us for f in flows]),
    )


def report(
    sequence: int, *flows: FlowRecord, host: str = "web1", at: int = NOW, lost: int = 0, epoch: str = "e"
) -> FlowReport:
    return FlowReport(host, epoch, sequence, at, columns(flows), lost)


def addresses(held: Mapping[str, str]) -> dict[bytes, str]:
    """Holders by address, from address (IPv4 text) to host."""
    return {mapped(address): host for address, host in held.items()}
