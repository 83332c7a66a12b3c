"""Conntrack entries, marks and policies for the tests of flows."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_network
from typing import Any

from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import HOST_WORKLOAD, Mode, PortRange
from segctl_agent.conntrack.values import IPS_ASSURED, ConntrackRow
from segctl_agent.nft.attributes import attribute, nested, u32, u64

_ZEROS = ConntrackRow(*(0,) * len(ConntrackRow._fields))  # type: ignore[arg-type]


def packed(address: str) -> bytes:
    return ip_address(address).packed


class Layout:
    """The default of ADR 9."""

    out_mask, in_mask = 0xFFF00000, 0x000FFF00

    def out_id(self, mark: int) -> int:
        return mark >> 20 & 0xFFF

    def in_id(self, mark: int) -> int:
        return mark >> 8 & 0xFFF

    def loose(self, mark: int) -> bool:
        return bool(mark & 0x80)


def mark(outgoing: int = 0, incoming: int = 0, *, loose: bool = False) -> int:
    return outgoing << 20 | incoming << 8 | loose << 7 | 0x2A  # the low bits are someone else's


def row(source: str, source_port: int, destination: str, port: int, protocol: int = 6, **more: Any) -> ConntrackRow:
    """Without NAT, established; the id follows from the ends."""
    plain = _ZEROS._replace(
        protocol=protocol,
        source=packed(source),
        destination=packed(destination),
        source_port=source_port,
        destination_port=port,
        reply_source=packed(destination),
        reply_destination=packed(source),
        reply_source_port=port,
        reply_destination_port=source_port,
        status=IPS_ASSURED,
        tcp_state=3 if protocol == 6 else 0,
        timeout=100,
        id=(source_port << 16 | port) & 0xFFFF_FFFF,
    )
    return plain._replace(**more)


def encoded(entry: ConntrackRow) -> bytes:
    """What the kernel writes (ctnetlink_fill_info); what is 0 and optional is left out."""
    parts = [_tuple(1, entry, ""), _tuple(2, entry, "reply_"), u32(3, entry.status)]
    parts.append(u32(7, entry.timeout))
    for kind, packets, count in (
        (9, entry.original_packets, entry.original_bytes),
        (10, entry.reply_packets, entry.reply_bytes),
    ):
        if packets or count:
            parts.append(nested(kind, u64(1, packets), u64(2, count)))
    if entry.started_ns:
        parts.append(nested(20, u64(1, entry.started_ns)))
    if entry.tcp_state:
        parts.append(nested(4, nested(1, attribute(1, bytes([entry.tcp_state])), attribute(2, b"\x07"))))
    if entry.mark:
        parts.append(u32(8, entry.mark))
    if entry.zone:
        parts.append(attribute(18, struct.pack(">H", entry.zone)))
    parts += [u32(11, 1), u32(12, entry.id)]
    return bytes([2 if len(entry.source) == 4 else 10, 0, 0, 0]) + b"".join(parts)


def _tuple(kind: int, entry: ConntrackRow, prefix: str) -> bytes:
    source, destination = getattr(entry, f"{prefix}source"), getattr(entry, f"{prefix}destination")
    first = 1 if len(source) == 4 else 3
    near = struct.pack(">H", getattr(entry, f"{prefix}source_port"))
    service = getattr(entry, f"{prefix}destination_port")
    if entry.protocol in (1, 58):
        at = 4 if entry.protocol == 1 else 7
        ports = attribute(at, near) + attribute(at + 1, bytes([service])) + attribute(at + 2, bytes([entry.code]))
    else:
        ports = attribute(2, near) + attribute(3, struct.pack(">H", service))
    return nested(
        kind,
        nested(1, attribute(first, source), attribute(first + 1, destination)),
        nested(2, attribute(1, bytes([entry.protocol])), ports),
    )


def entry(rule: str, group: str, *ports: PortRange, managed: bool = True, until: int = 0) -> Entry:
    return Entry(rule, group, ports, managed, until)


def tcp(low: int, high: int | None = None) -> PortRange:
    return PortRange("tcp", low, low if high is None else high)


def policy(
    *workloads: LocalWorkload, groups: dict[str, tuple[str, ...]] | None = None, host: Mode = Mode.ENFORCE, **more: Any
) -> HostPolicy:
    """`groups`: name -> networks."""
    return HostPolicy(
        "web-1",
        3,
        "d" * 64,
        (LocalWorkload(HOST_WORKLOAD, None, host), *workloads),
        tuple(Group(n, tuple(ip_network(a) for a in networks)) for n, networks in (groups or {}).items()),
        **more,
    )
