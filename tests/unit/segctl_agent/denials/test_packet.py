"""parse_packet on packets built by hand, cut short, and on noise."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl_agent.denials.packet import Packet, parse_packet

A4, B4 = ip_address("192.0.2.1"), ip_address("198.51.100.2")
A6, B6 = ip_address("2001:db8::1"), ip_address("2001:db8::2")
PORTS = struct.pack(">HH", 40000, 5432)
TCP = PORTS + bytes(9) + b"\x02" + bytes(6)


def v4(protocol: int, rest: bytes, options: bytes = b"", fragment: int = 0) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x40 | (5 + len(options) // 4), 0, 0, 0, fragment, 64, protocol, 0)
    return head + A4.packed + B4.packed + options + rest


def v6(following: int, rest: bytes) -> bytes:
    return struct.pack(">IHBB", 6 << 28, len(rest), following, 64) + A6.packed + B6.packed + rest


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (v4(6, TCP), Packet(A4, B4, "tcp", 40000, 5432, 2)),
        (v4(17, PORTS + bytes(4)), Packet(A4, B4, "udp", 40000, 5432)),
        (v4(6, TCP, options=bytes(40)), Packet(A4, B4, "tcp", 40000, 5432, 2)),
        (v4(1, b"\x08\0"), Packet(A4, B4, "icmp", 0, 8)),
        (v4(132, b""), Packet(A4, B4, "ip/132")),
        (v4(17, b"anything", fragment=7), Packet(A4, B4, "udp")),
        (v4(17, PORTS, fragment=0x2000), Packet(A4, B4, "udp", 40000, 5432)),
        (v6(6, TCP), Packet(A6, B6, "tcp", 40000, 5432, 2)),
        (v6(58, b"\x80\0"), Packet(A6, B6, "icmpv6", 0, 128)),
        (v6(0, b"\x11\0" + bytes(6) + PORTS), Packet(A6, B6, "udp", 40000, 5432)),
        (v6(60, b"\x2b\1" + bytes(14) + b"\x06\0" + bytes(6) + TCP), Packet(A6, B6, "tcp", 40000, 5432, 2)),
        (v6(51, b"\x11\4" + bytes(22) + PORTS), Packet(A6, B6, "udp", 40000, 5432)),
        (v6(44, b"\x11\0\0\1" + bytes(4) + PORTS), Packet(A6, B6, "udp", 40000, 5432)),
        (v6(44, b"\x11\0\0\x08" + bytes(4) + b"later"), Packet(A6, B6, "udp")),
        (v6(50, bytes(8)), Packet(A6, B6, "ip/50")),
        (v6(59, b""), Packet(A6, B6, "ip/59")),
    ],
)
def test_packets(data: bytes, expected: Packet):
    assert parse_packet(data) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 40,
        v4(6, TCP)[:19],
        v4(6, TCP)[:23],
        b"\x41" + v4(6, TCP)[1:],
        v4(1, b""),
        v4(6, TCP, options=bytes(40))[:40],
        v6(6, TCP)[:39],
        v6(6, TCP)[:43],
        v6(0, b"\x11\xff" + bytes(6) + PORTS),
        v6(60, (b"\x3c\0" + bytes(6)) * 9 + PORTS),
    ],
)
def test_cut_short_or_no_ip_is_none(data: bytes):
    assert parse_packet(data) is None


@given(
    st.binary(max_size=96)
    | st.binary(max_size=90).map(lambda b: b"\x45" + b)
    | st.binary(max_size=90).map(lambda b: b"\x60" + b)
)
def test_noise_never_raises_and_stays_in_range(data: bytes):
    packet = parse_packet(data)
    if packet is not None:
        assert isinstance(packet.source, IPv4Address | IPv6Address)
        assert packet.source.version == packet.destination.version == data[0] >> 4
        assert 0 <= packet.source_port <= 0xFFFF
        assert 0 <= packet.destination_port <= 0xFFFF


@given(
    st.sampled_from([v4(6, TCP), v6(6, TCP), v6(0, b"\x3c\0" + bytes(6) + b"\x06\0" + bytes(6) + TCP)]),
    st.integers(0, 96),
)
def test_a_prefix_of_a_packet_is_none_or_the_packet(data: bytes, length: int):
    found = parse_packet(data[:length])
    whole = parse_packet(data)
    assert whole is not None
    assert found is None or (found.destination_port, found.protocol) == (whole.destination_port, whole.protocol)
