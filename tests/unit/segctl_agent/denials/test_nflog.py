"""The parser of NFLOG messages, on messages built by hand and on noise."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from segctl_agent.denials.nflog import parse_message
from segctl_agent.denials.prefix import Prefix
from segctl_agent.denials.values import LoggedPacket


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def test_a_message_with_everything():
    message = b"".join(
        [
            attribute(1, bytes(4)),
            attribute(10, b"segctl 1 out deny shop\0"),
            attribute(5, struct.pack(">I", 3)),
            attribute(3, struct.pack(">QQ", 1_700_000_000, 250)),
            attribute(11, struct.pack(">I", 1000)),
            attribute(14, struct.pack(">I", 100)),
            attribute(12, struct.pack(">I", 42)),
            attribute(9, b"\x45packet"),
        ]
    )
    prefix = Prefix("out", "deny", "shop")
    packet = LoggedPacket(prefix, b"\x45packet", 1000, 100, 1_700_000_000_000_250, 0, 3)
    assert parse_message(b"12345678" + message, 8, 8 + len(message), 7) == (42, packet)


def test_without_owner_and_time():
    message = attribute(10, b"segctl 1 in test ?\0") + attribute(4, struct.pack(">I", 2))
    packet = LoggedPacket(Prefix("in", "test", "?"), b"", None, None, 7, 2, 0)
    assert parse_message(message, 0, len(message), 7) == (None, packet)


def test_the_log_of_another_is_none_but_numbered():
    message = attribute(10, b"fw: drop \0") + attribute(12, struct.pack(">I", 5))
    assert parse_message(message, 0, len(message), 7) == (5, None)
    assert parse_message(attribute(10, b"\xff\xfe\0"), 0, 7, 7) == (None, None)


@given(
    st.binary(max_size=200)
    | st.lists(st.tuples(st.integers(0, 25), st.binary(max_size=40))).map(
        lambda pairs: b"".join(attribute(k, v) for k, v in pairs)
    )
)
def test_noise_never_raises(message: bytes):
    parse_message(message, 0, len(message), 7)
