"""The bare packer's bytes."""

from __future__ import annotations

import struct

from bench.packer import pack_elements


def test_an_element_is_address_protocol_and_port_padded_to_four_bytes():
    (body,) = pack_elements(bytes([10, 0, 0, 3, 10, 0, 1, 35]), 6, 8080)
    rest = bytes([6, 0, 0, 0]) + (8080).to_bytes(2, "big") + b"\0\0"
    assert len(body) == 48
    assert body[12:24] == bytes([10, 0, 0, 3]) + rest
    assert body[36:] == bytes([10, 0, 1, 35]) + rest
    assert struct.unpack_from("=HHHHHH", body, 24) == (24, 0x8001, 20, 0x8001, 16, 1)


def test_no_attribute_outgrows_its_sixteen_bit_length():
    addresses = b"".join(n.to_bytes(4, "big") for n in range(10_000))
    bodies = list(pack_elements(addresses, 6, 80))
    assert sum(len(b) for b in bodies) == 10_000 * 24
    assert max(len(b) for b in bodies) + 4 <= 0xFFFF
