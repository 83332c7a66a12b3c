"""ctnetlink messages, whole, damaged and made of noise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from segctl_agent.conntrack.decode import RowDecoder, messages
from segctl_agent.conntrack.values import ConntrackRow
from segctl_agent.nft.attributes import attribute, nested

from tests.unit.segctl_agent.flows.rows import encoded, packed, row

PORTS = st.integers(0, 0xFFFF)
COUNTS = st.one_of(st.just(0), st.integers(1, 2**64 - 1))


@st.composite
def rows(draw: st.DrawFn) -> ConntrackRow:
    width = draw(st.sampled_from([4, 16]))
    address = st.binary(min_size=width, max_size=width)
    protocol = draw(st.sampled_from([6, 17, 132, 1 if width == 4 else 58]))
    service = st.integers(0, 255) if protocol in (1, 58) else PORTS
    return ConntrackRow(
        protocol=protocol,
        source=draw(address),
        destination=draw(address),
        source_port=draw(PORTS),
        destination_port=draw(service),
        code=0,
        reply_source=draw(address),
        reply_destination=draw(address),
        reply_source_port=draw(PORTS),
        reply_destination_port=draw(service),
        zone=draw(PORTS),
        status=draw(st.integers(0, 0xFFFF_FFFF)),
        mark=draw(st.integers(0, 0xFFFF_FFFF)),
        id=draw(st.integers(0, 0xFFFF_FFFF)),
        timeout=draw(st.integers(0, 0xFFFF_FFFF)),
        tcp_state=draw(st.integers(0, 255)) if protocol == 6 else 0,
        original_packets=draw(COUNTS),
        original_bytes=draw(COUNTS),
        reply_packets=draw(COUNTS),
        reply_bytes=draw(COUNTS),
        started_ns=draw(COUNTS),
    )


@given(st.lists(rows(), max_size=8))
def test_what_the_kernel_writes_is_read_back(entries: list[ConntrackRow]) -> None:
    decoder = RowDecoder()
    assert [decoder.row(encoded(e)) for e in entries] == entries
    assert [decoder.row(encoded(e)) for e in entries] == entries  # by their shapes now


@given(st.lists(rows(), min_size=1, max_size=3), st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=6))
def test_a_damaged_message_means_the_same_with_and_without_known_shapes(
    entries: list[ConntrackRow], damages: list[tuple[int, int]]
) -> None:
    warm = RowDecoder()
    for entry in entries:
        warm.row(encoded(entry))
        damaged = bytearray(encoded(entry))
        for at, byte in damages:
            damaged[at % len(damaged)] = byte
        assert warm.row(bytes(damaged)) == RowDecoder().row(bytes(damaged))


@given(st.binary(max_size=300))
def test_noise_makes_no_error(noise: bytes) -> None:
    found = RowDecoder().row(noise)
    assert found is None or len(found.source) in (4, 16)
    assert all(len(body) <= len(noise) for _, _, _, body in messages(noise))


def test_a_message_cut_short_is_no_row_or_still_of_the_same_ends() -> None:
    whole = row("10.0.0.1", 5000, "10.0.0.2", 443, mark=7)
    found = [RowDecoder().row(encoded(whole)[:cut]) for cut in range(len(encoded(whole)))]
    assert found[:100] == [None] * 100
    assert {r[:10] for r in found if r is not None} == {whole[:10]}


def test_an_attribute_that_leaves_its_message_or_has_another_width_makes_no_row() -> None:
    good = encoded(row("10.0.0.1", 5000, "10.0.0.2", 443))
    assert RowDecoder().row(good + attribute(8, b"\0\0\0\1")) is not None
    assert RowDecoder().row(good + attribute(8, b"\0\1")) is None
    assert RowDecoder().row(good + b"\x20\0\x08\0\0\0\0\1") is None
    assert RowDecoder().row(good + b"\x02\0\x08\0") is None


def test_a_row_needs_both_tuples_of_one_family() -> None:
    def half(kind: int, *addresses: bytes) -> bytes:
        first = 1 if len(addresses[0]) == 4 else 3
        ends = nested(1, attribute(first, addresses[0]), attribute(first + 1, addresses[1]))
        return nested(kind, ends, nested(2, attribute(1, b"\x06")))

    four, six = (packed("10.0.0.1"), packed("10.0.0.2")), (packed("fd00::1"), packed("fd00::2"))
    assert RowDecoder().row(bytes(4) + half(1, *four) + half(2, *four)) is not None
    assert RowDecoder().row(bytes(4) + half(1, *four)) is None
    assert RowDecoder().row(bytes(4) + half(1, *four) + half(2, *six)) is None


def test_shapes_are_bounded() -> None:
    decoder = RowDecoder()
    good = encoded(row("10.0.0.1", 5000, "10.0.0.2", 443))
    for kind in range(1000):
        assert decoder.row(good + attribute(100 + kind, b"")) is not None
    assert sum(map(len, decoder._shapes.values())) <= 64


def test_messages_end_where_the_bytes_make_no_sense() -> None:
    one = b"\x14\0\0\0\x02\0\0\0\x07\0\0\0\0\0\0\0abcd"
    assert list(messages(one + one + b"\x08\0\0\0" + bytes(12))) == [(2, 0, 7, b"abcd")] * 2
    assert list(messages(one[:-1])) == []


def test_nat_is_what_changes_an_end() -> None:
    plain = row("10.0.0.1", 5000, "10.0.0.2", 443)
    assert not plain.translated
    assert plain._replace(reply_source_port=8443).translated
    assert plain._replace(reply_destination=packed("192.0.2.1")).translated
    assert not row("10.0.0.1", 7, "10.0.0.2", 8, protocol=1)._replace(reply_destination_port=0).translated
