"""Dumps of the dynamic sets, and the ledger of counted and logged packets."""

from __future__ import annotations

import struct
from collections import Counter
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st
from segctl_agent.denials.coalesce import Key
from segctl_agent.denials.counts import (
    MAX_FLOWS,
    Direction,
    Element,
    Ledger,
    Surplus,
    Version,
    countable,
    parse_elements,
    parse_key,
)
from segctl_agent.denials.values import Verdict
from segctl_agent.nft.attributes import attribute, nested, string, u32, u64

OUT: tuple[Direction, Version] = ("out", 4)


def raw_key(port: int, mark: int = 1, protocol: int = 17) -> bytes:
    return struct.pack("=I", mark) + IPv4Address("192.0.2.9").packed + struct.pack(">B3xH2x", protocol, port)


def flow(port: int) -> Key:
    return Key(False, "denied", "shop", IPv4Address("192.0.2.9"), "udp", port, None)


def element(port: int, packets: int, expires_ms: int = 60_000, mark: int = 1) -> Element:
    return Element(raw_key(port, mark), packets, expires_ms)


def name_of(direction: Direction, mark: int) -> tuple[str, Verdict] | None:
    return ("shop", "denied") if direction == "out" and mark in (1, 2) else None


def started() -> Ledger:
    ledger = Ledger(name_of)
    ledger.counted({}, 0)
    return ledger


def told(ledger: Ledger, *, final: bool = False) -> dict[Key, int]:
    found = list(ledger.due(final=final))
    for surplus in found:
        ledger.told(surplus)
    return {s.flow: s.packets for s in found}


def message(*elements: Element, limit: bool = True, comment: bytes = b"") -> bytes:
    """NFT_MSG_NEWSETELEM's attributes, as 6.18 lays them out."""

    def one(e: Element) -> bytes:
        counter = nested(1, string(1, "counter"), nested(2, u64(1, 77 * e.packets), u64(2, e.packets)))
        rate = nested(1, string(1, "limit"), nested(2, u64(1, 1), u64(2, 1), u32(3, 2), u32(4, 0), u32(5, 1)))
        expressions = nested(11, counter, rate) if limit else attribute(7, counter[4:])
        extra = attribute(6, comment) if comment else b""
        return nested(1, nested(1, attribute(1, e.key)), expressions, extra, u64(5, e.expires_ms))

    return string(1, "segctl") + string(2, "denied_out4") + nested(3, *(one(e) for e in elements))


def test_elements_are_read_in_every_layout() -> None:
    some = [element(p, p * 3, 1000 + p) for p in range(1, 40)]
    assert parse_elements([message(*some[:20]), message(*some[20:])], 4) == some
    assert parse_elements([message(*some, limit=False)], 4) == some
    assert parse_elements([message(*some, comment=b"hello")], 4) == some
    mixed = message(some[0])[:-4] + message(some[1])[-4:]
    assert len(parse_elements([mixed, message(*some)], 4)) >= len(some)


@given(st.binary(max_size=400), st.sampled_from([4, 6]))
def test_any_bytes_are_read_without_an_error(data: bytes, version: Version) -> None:
    parse_elements([data, nested(3, data)], version)


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=5), st.data())
def test_damaged_dumps_are_read_without_an_error(packets: list[int], data: st.DataObject) -> None:
    whole = message(*(element(p % 65536, p) for p in packets))
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    for found in parse_elements([damaged, damaged[:at]], 4):
        assert len(found.key) == 16
        parse_key(found.key, 4)


def test_keys_of_both_families() -> None:
    assert parse_key(raw_key(443, 0x12345678, 6), 4) == (0x12345678, IPv4Address("192.0.2.9"), 6, 443)
    six = struct.pack("=I", 5) + IPv6Address("fd00::9").packed + struct.pack(">B3xH2x", 17, 53)
    assert parse_key(six, 6) == (5, IPv6Address("fd00::9"), 17, 53)


def test_the_first_dump_shows_where_the_counters_stand() -> None:
    ledger = Ledger(name_of)
    assert not ledger.counted({OUT: [element(53, 100)]}, 0)
    assert told(ledger, final=True) == {}
    assert ledger.counted({OUT: [element(53, 103)]}, 1_000_000)
    assert told(ledger, final=True) == {flow(53): 3}


def test_what_was_logged_is_no_surplus_and_the_rest_waits_for_a_second_dump() -> None:
    ledger = started()
    ledger.counted({OUT: [element(53, 10)]}, 5_000_000)
    ledger.logged(Key(False, "denied", "shop", IPv4Address("192.0.2.9"), "udp", 53, 1000))
    assert ledger.pending == 9
    assert told(ledger) == {}
    ledger.logged(flow(53))  # its log came late
    ledger.counted({OUT: [element(53, 10, 59_000)]}, 6_000_000)
    assert told(ledger) == {flow(53): 8}
    assert ledger.pending == 0
    ledger.counted({OUT: [element(53, 10, 58_000)]}, 7_000_000)
    assert told(ledger) == {}


def test_a_surplus_says_when() -> None:
    ledger = started()
    ledger.counted({}, 1_000_000)
    ledger.counted({OUT: [element(53, 10, 59_750)]}, 2_000_000)
    assert list(ledger.due(final=True)) == [Surplus(flow(53), 10, 1_000_000, 1_750_000)]


def test_what_nobody_took_comes_again() -> None:
    ledger = started()
    ledger.counted({OUT: [element(53, 10)]}, 0)
    assert [s.packets for s in ledger.due()] == []
    for _ in range(2):
        ledger.counted({OUT: [element(53, 10)]}, 0)
        assert [s.packets for s in ledger.due()] == [10]


def test_an_element_that_comes_again_starts_from_zero() -> None:
    ledger = started()
    ledger.counted({OUT: [element(53, 10)]}, 0)
    ledger.counted({OUT: [element(53, 4)]}, 0)
    assert told(ledger, final=True) == {flow(53): 14}
    ledger.counted({OUT: []}, 0)
    ledger.counted({OUT: []}, 0)
    ledger.counted({OUT: [element(53, 5)]}, 0)
    assert told(ledger, final=True) == {flow(53): 5}


def test_an_element_that_one_dump_left_out_is_not_counted_twice() -> None:
    ledger = started()
    ledger.counted({OUT: [element(53, 10)]}, 0)
    ledger.counted({OUT: []}, 0)
    ledger.counted({OUT: [element(53, 11)]}, 0)
    assert told(ledger, final=True) == {flow(53): 11}


def test_marks_of_one_workload_are_one_flow_and_unknown_ones_none() -> None:
    ledger = started()
    ledger.counted({OUT: [element(53, 1), element(53, 2, mark=2), element(53, 4, mark=9)]}, 0)
    assert told(ledger, final=True) == {flow(53): 3}


def test_the_name_of_a_decision_that_ended_is_remembered() -> None:
    names: dict[int, tuple[str, Verdict]] = {1: ("shop", "denied")}
    ledger = Ledger(lambda direction, mark: names.get(mark))
    ledger.counted({}, 0)
    ledger.counted({OUT: [element(53, 1)]}, 0)
    names.clear()
    ledger.counted({OUT: [element(53, 3)]}, 0)
    assert told(ledger, final=True) == {flow(53): 3}


def test_flows_with_a_surplus_are_bounded() -> None:
    ledger = started()
    ledger.counted({OUT: [element(p, 1) for p in range(1, MAX_FLOWS + 100)]}, 0)
    assert ledger.pending == MAX_FLOWS


def test_a_log_that_no_set_counted_is_no_credit_for_later() -> None:
    ledger = started()
    ledger.logged(flow(53))
    told(ledger)
    told(ledger)
    ledger.counted({OUT: [element(53, 3)]}, 0)
    assert told(ledger, final=True) == {flow(53): 3}


def test_only_what_has_ports_is_countable() -> None:
    assert countable(flow(53))
    assert not countable(flow(0))
    assert not countable(Key(False, "denied", "shop", IPv4Address("192.0.2.9"), "icmp", 8, None))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("packet"), st.integers(1, 3), st.booleans()),
        st.tuples(st.just("dump"), st.integers(0, 3), st.booleans()),
    ),
    max_size=60,
)


@given(steps)
def test_every_packet_is_told_once_however_logs_and_dumps_come(script: list[tuple[str, int, bool]]) -> None:
    """Logs are read after a dump, but for a few that come later, though not at two dumps in a row; elements may be left
    out of one dump."""
    ledger = started()
    counted: Counter[int] = Counter()
    known: Counter[int] = Counter()
    queue: list[int] = []

    def read(logs: list[int]) -> None:
        for port in logs:
            ledger.logged(flow(port))
            known[port] += 1

    held, left_out = 0, False
    for what, number, flag in [*script, ("dump", 0, False), ("dump", 0, False), ("dump", 0, False)]:
        if what == "packet":
            counted[number] += 1
            if flag:
                queue.append(number)
            continue
        hide = flag and not left_out
        ledger.counted({OUT: [element(p, n) for p, n in counted.items() if not (hide and p == 1)]}, 0)
        left_out = hide
        held = 0 if held else min(number, len(queue))
        read(queue[: len(queue) - held])
        queue = queue[len(queue) - held :]
        for surplus, packets in told(ledger).items():
            known[surplus.port] += packets
        assert all(known[p] <= counted[p] for p in known)
    assert known == counted
