"""The bare packer's bytes."""

from __future__ import annotations

from bench.packer import pack_elements


def test_an_element_is_address_protocol_and_port_padded_to_four_bytes():
    (body,) = pack_elements([0x0A000003], 6, 8080)
    assert len(body) == 24
    assert body[12:] == bytes([10, 0, 0, 3, 6, 0, 0, 0]) + (8080).to_bytes(2, "big") + b"\0\0"


def test_no_attribute_outgrows_its_sixteen_bit_length():
    bodies = list(pack_elements(range(10_000), 6, 80))
    assert sum(len(b) for b in bodies) == 10_000 * 24
    assert max(len(b) for b in bodies) + 4 <= 0xFFFF
