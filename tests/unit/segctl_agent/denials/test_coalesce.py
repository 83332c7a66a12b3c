"""Coalescer: a conversation in packets and moments."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st
from segctl_agent.denials.coalesce import NOT_LOGGED, REMEMBERED_SECONDS, Coalescer, Key, Step
from segctl_agent.denials.values import Attribution, ProcessInfo


def key(port: int = 5432, uid: int | None = 1000) -> Key:
    return Key(False, "denied", "shop", ip_address("192.0.2.1"), "tcp", port, uid)


def test_the_first_packet_goes_out_at_once_and_its_repeats_once_an_interval():
    coalescer = Coalescer(interval=1.0)
    assert coalescer.add(key(), 100, 0.0) is Step.NEW
    assert coalescer.add(key(), 200, 0.1) is Step.REPEAT
    who = Attribution(ProcessInfo(pid=7))
    coalescer.attribute(key(), who, 0.1)
    assert coalescer.add(key(), 300, 0.2) is Step.COUNTED
    assert coalescer.due(0.9) == []
    assert coalescer.next_due() == 1.0
    (told,) = coalescer.due(1.0)
    assert (told.key, told.count, told.first_us, told.last_us, told.attribution) == (key(), 2, 200, 300, who)
    assert coalescer.add(key(), 400, 1.5) is Step.REPEAT
    assert coalescer.due(1.9) == []
    assert [a.count for a in coalescer.due(2.0)] == [1]


def test_a_quiet_key_is_forgotten_and_then_new_again():
    coalescer = Coalescer(interval=1.0)
    coalescer.add(key(), 1, 0.0)
    assert coalescer.due(1.0) == []
    assert len(coalescer) == 0
    assert coalescer.add(key(), 2, 1.1) is Step.NEW


def test_users_and_ports_are_kept_apart():
    coalescer = Coalescer()
    assert [coalescer.add(k, 1, 0.0) for k in (key(), key(uid=1), key(uid=None), key(1))] == [Step.NEW] * 4


def test_beyond_the_bound_packets_are_only_counted():
    coalescer = Coalescer(max_keys=2)
    assert [coalescer.add(key(p), 1, 0.0) for p in (1, 2, 3, 3)] == [Step.NEW, Step.NEW, Step.LOST, Step.LOST]
    assert (len(coalescer), coalescer.lost) == (2, 2)
    coalescer.due(1.0)
    assert coalescer.add(key(3), 1, 1.0) is Step.NEW


def test_close_tells_what_was_held_back():
    coalescer = Coalescer()
    coalescer.add(key(), 1, 0.0)
    coalescer.add(key(), 2, 0.0)
    coalescer.add(key(9), 2, 0.0)
    assert [(a.key.port, a.count) for a in coalescer.close()] == [(5432, 1)]
    assert coalescer.next_due() is None


@given(st.lists(st.tuples(st.integers(1, 8), st.floats(0, 0.7)), max_size=200))
def test_every_packet_is_told_once_or_lost(events: list[tuple[int, float]]):
    coalescer = Coalescer(interval=1.0, max_keys=4)
    now, told = 0.0, 0
    for port, wait in events:
        now += wait
        told += sum(a.count for a in coalescer.due(now))
        told += coalescer.add(key(port), int(now * 1e6), now) is Step.NEW
        assert len(coalescer) <= 4
    told += sum(a.count for a in coalescer.close())
    assert told + coalescer.lost == len(events)


def test_a_surplus_joins_the_key_of_its_flow_that_was_logged_last():
    coalescer = Coalescer(interval=1.0)
    coalescer.add(key(uid=1000), 1, 0.0)
    coalescer.add(key(uid=1001), 2, 0.1)
    one, other = Attribution(ProcessInfo(pid=1)), Attribution(ProcessInfo(pid=2))
    coalescer.attribute(key(uid=1000), one, 0.0)
    coalescer.attribute(key(uid=1001), other, 0.1)
    assert coalescer.surplus(key(uid=None), 40, 5, 9, 0.5) == []
    (told,) = coalescer.due(2.0)
    assert (told.key.uid, told.count, told.first_us, told.last_us, told.attribution) == (1001, 40, 5, 9, other)


def test_a_surplus_of_a_quiet_flow_is_told_at_once_and_still_knows_the_process():
    coalescer = Coalescer(interval=1.0)
    coalescer.add(key(), 1, 0.0)
    who = Attribution(ProcessInfo(pid=7))
    coalescer.attribute(key(), who, 0.0)
    assert coalescer.due(1.0) == []
    assert [(a.key, a.count, a.attribution) for a in coalescer.surplus(key(uid=None), 3, 1, 2, 5.0) or ()] == [
        (key(), 3, who)
    ]
    late = coalescer.surplus(key(80, uid=None), 3, 1, 2, 5.0)
    assert late is not None
    assert [(a.key.uid, a.attribution) for a in late] == [(None, NOT_LOGGED)]
    assert coalescer.surplus(key(uid=None), 3, 1, 2, 5.0 + REMEMBERED_SECONDS + 1) != []
    assert coalescer.surplus(key(80, uid=None), 5, 1, 2, 5.5) == []
    assert sorted(a.count for a in coalescer.due(7.0)) == [5]


def test_a_repeat_that_is_logged_after_a_surplus_is_still_looked_up():
    coalescer = Coalescer(interval=1.0)
    coalescer.surplus(key(uid=None), 3, 1, 2, 0.0)
    assert coalescer.add(key(uid=None), 3, 0.1) is Step.REPEAT
    who = Attribution(ProcessInfo(pid=7))
    coalescer.attribute(key(uid=None), who, 0.1)
    assert [(a.count, a.attribution) for a in coalescer.due(1.0)] == [(1, who)]


def test_a_surplus_that_finds_no_room_waits():
    coalescer = Coalescer(interval=1.0, max_keys=2)
    for port in (1, 2):
        assert coalescer.surplus(key(port, uid=None), 1, 0, 0, 0.0)
    assert coalescer.surplus(key(3, uid=None), 1, 0, 0, 0.0) is None
    assert coalescer.lost == 0
    coalescer.due(1.0)
    assert coalescer.surplus(key(3, uid=None), 1, 0, 0, 1.0)
