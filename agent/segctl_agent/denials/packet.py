"""The head of a captured packet: who talks to whom, and about what. Pure; any bytes may come in.

Formats: RFC 791 (IPv4), RFC 8200 (IPv6 and its extension headers), RFC 4302 (AH), RFC 9293, 768, 792, 4443.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from segctl_agent.facts.values import Address

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
_NAMES = {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPV6: "icmpv6"}

_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AH, _DESTINATION, _MOBILITY, _HIP, _SHIM6 = 0, 43, 44, 51, 60, 135, 139, 140
_EXTENSIONS = frozenset({_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AH, _DESTINATION, _MOBILITY, _HIP, _SHIM6})
_MAX_EXTENSIONS = 8

_PORTS = struct.Struct(">HH")


@dataclass(frozen=True, slots=True)
class Packet:
    """protocol: tcp, udp, icmp, icmpv6 or `ip/N`. Ports are 0 where there are none; for ICMP `destination_port` is
    the message type. A fragment other than the first has no ports."""

    source: Address
    destination: Address
    protocol: str
    source_port: int = 0
    destination_port: int = 0
    flags: int = 0
    """The flags byte of a TCP header: 0x02 SYN, 0x10 ACK."""


def parse_packet(data: bytes) -> Packet | None:
    """The packet whose network header starts `data`; None when it is cut short before its ports, or no IP at all."""
    if not data:
        return None
    version = data[0] >> 4
    if version == 4:
        return _parse_v4(data)
    if version == 6:
        return _parse_v6(data)
    return None


def _parse_v4(data: bytes) -> Packet | None:
    header = (data[0] & 0x0F) * 4
    if header < 20 or len(data) < header:
        return None
    source, destination = IPv4Address(data[12:16]), IPv4Address(data[16:20])
    later_fragment = (data[6] << 8 | data[7]) & 0x1FFF != 0
    return _parse_transport(source, destination, data[9], data[header:], later_fragment)


def _parse_v6(data: bytes) -> Packet | None:
    if len(data) < 40:
        return None
    source, destination = IPv6Address(data[8:24]), IPv6Address(data[24:40])
    following, offset = data[6], 40
    later_fragment = False
    for _ in range(_MAX_EXTENSIONS):
        if following not in _EXTENSIONS or later_fragment:
            return _parse_transport(source, destination, following, data[offset:], later_fragment)
        if len(data) < offset + 8:
            return None
        if following == _FRAGMENT:
            length = 8
            later_fragment = (data[offset + 2] << 8 | data[offset + 3]) & 0xFFF8 != 0
        elif following == _AH:
            length = (data[offset + 1] + 2) * 4
        else:
            length = (data[offset + 1] + 1) * 8
        following, offset = data[offset], offset + length
        if offset > len(data):
            return None
    return None


def _parse_transport(
    source: Address, destination: Address, number: int, data: bytes, later_fragment: bool
) -> Packet | None:
    name = _NAMES.get(number, f"ip/{number}")
    if later_fragment or number not in _NAMES:
        return Packet(source, destination, name)
    if number in (ICMP, ICMPV6):
        return Packet(source, destination, name, 0, data[0]) if data else None
    if len(data) < 4:
        return None
    source_port, destination_port = _PORTS.unpack_from(data)
    flags = data[13] if number == TCP and len(data) > 13 else 0
    return Packet(source, destination, name, source_port, destination_port, flags)
