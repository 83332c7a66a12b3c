"""Answers of sock_diag and rtnetlink, built by hand and as noise."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl.errors import KernelError
from segctl_agent.facts.addresses import usable
from segctl_agent.facts.sockdiag import SocketInfo, parse_message


def test_a_listener_with_its_cgroup():
    message = struct.pack("=BBBB", 2, 10, 0, 0) + struct.pack(">HH", 8080, 0) + bytes([127, 0, 0, 1]).ljust(16, b"\0")
    message += bytes(28) + struct.pack("=IIIII", 0, 0, 0, 33, 4711)
    message += struct.pack("=HHB3x", 5, 8, 0) + struct.pack("=HHQ", 12, 21, 2**40 + 9)
    expected = SocketInfo("tcp", ip_address("127.0.0.1"), 8080, 10, 33, 4711, 2**40 + 9)
    assert parse_message("tcp", message) == expected


def test_a_connection_with_its_peer_and_cookie():
    message = struct.pack("=BBBB", 2, 1, 0, 0) + struct.pack(">HH", 5000, 443) + bytes([10, 0, 0, 1]).ljust(16, b"\0")
    message += bytes(20) + b"\1\2\3\4\5\6\7\x08" + struct.pack("=IIIII", 0, 0, 0, 33, 4711)
    found = parse_message("tcp", message)
    assert (found.port, found.remote_port, found.cookie) == (5000, 443, bytes(range(1, 9)))


@given(st.binary(max_size=140))
def test_noise_is_refused_or_parsed(message: bytes):
    if len(message) < 72:
        with pytest.raises(KernelError, match="expected 72"):
            parse_message("udp", message)
    else:
        assert 0 <= parse_message("udp", message).port <= 0xFFFF


def test_only_addresses_in_use_count():
    def message(flags: int, *attributes: tuple[str, object]) -> dict[str, object]:
        return {"flags": flags & 0xFF, "attrs": [*attributes, ("IFA_FLAGS", flags)]}

    found = usable(
        [
            message(0x80, ("IFA_ADDRESS", "10.0.0.2"), ("IFA_LOCAL", "10.0.0.1")),
            message(0x80, ("IFA_ADDRESS", "2001:db8::1")),
            message(0x40, ("IFA_ADDRESS", "2001:db8::2")),
            message(0x44, ("IFA_ADDRESS", "2001:db8::3")),
            message(0x88, ("IFA_ADDRESS", "2001:db8::4")),
        ]
    )
    assert found == {ip_address("10.0.0.1"), ip_address("2001:db8::1"), ip_address("2001:db8::3")}
