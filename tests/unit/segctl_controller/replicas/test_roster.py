"""Who counts as gone: only whoever stood still while we looked."""

from __future__ import annotations

from segctl_controller.replicas.roster import LEASE_SECONDS, Roster
from segctl_controller.store.shared import Beat

STEP = LEASE_SECONDS / 4


def beat(**counts: int) -> Beat:
    return Beat({name: (f"{name}:7443", count) for name, count in counts.items()})


def begun() -> Roster:
    roster = Roster("me")
    roster.begin(0.0)
    return roster


def test_one_that_counts_lives_and_one_that_stands_still_is_gone_after_the_lease() -> None:
    roster = begun()
    for turn in range(5):
        assert roster.look(beat(me=turn, you=turn, him=7), turn * STEP) == {}
    assert roster.size == 3
    assert roster.endpoint("him") == "him:7443"
    assert roster.look(beat(me=6, you=6, him=7), 5 * STEP) == {"him": 7}
    assert [roster.gone(name, 0.0) for name in ("you", "him", "me")] == [False, True, False]


def test_one_that_was_just_heard_of_is_not_gone_before_the_next_look() -> None:
    roster = begun()
    roster.look(beat(me=1), 1.0)
    assert not roster.gone("new", since=1.5)
    roster.look(beat(me=2), 2.0)
    assert roster.gone("new", since=1.5)


def test_one_whose_row_is_gone_is_gone_at_once() -> None:
    roster = begun()
    roster.look(beat(me=1, you=1), 0.0)
    assert roster.look(beat(me=2), STEP) == {"you": None}
    assert roster.look(beat(me=3), 2 * STEP) == {}


def test_who_was_blind_begins_to_measure_anew() -> None:
    roster = begun()
    roster.look(beat(me=1, you=1), 0.0)
    assert roster.look(None, LEASE_SECONDS) == {}
    back = 3 * LEASE_SECONDS
    assert roster.look(beat(me=2, you=1), back) == {}  # it may have been blind too
    for turn in range(1, 5):
        assert roster.look(beat(me=2 + turn, you=1), back + turn * STEP) == {}
    assert roster.look(beat(me=9, you=1), back + 5 * STEP) == {"you": 1}


def test_in_touch_is_who_looked_within_the_lease() -> None:
    roster = begun()
    assert roster.in_touch(LEASE_SECONDS)  # it has just begun
    assert not roster.in_touch(LEASE_SECONDS + 0.1)
    roster.look(beat(me=1), 10.0)
    assert roster.in_touch(10.0 + LEASE_SECONDS)
    roster.look(None, 10.0 + LEASE_SECONDS)
    assert not roster.in_touch(10.1 + LEASE_SECONDS)


def test_what_loading_took_is_no_lost_touch() -> None:
    roster = Roster("me")
    roster.begin(1000.0)
    assert roster.in_touch(1000.0 + LEASE_SECONDS)
    assert not roster.in_touch(1000.1 + LEASE_SECONDS)
