"""LostCount: counters against what came through."""

from __future__ import annotations

from segctl_agent.denials.lost import LostCount


def test_what_was_there_before_is_nobodys_loss():
    lost = LostCount()
    lost.received(3)
    assert lost.compare({("in", "a"): 100}) == 0
    assert lost.compare({("in", "a"): 100}) == 0


def test_a_difference_counts_once_it_stays():
    lost = LostCount()
    lost.compare({})
    lost.received(10)
    assert lost.compare({("in", "a"): 12, ("out", "b"): 3}) == 0
    assert lost.compare({("in", "a"): 12, ("out", "b"): 3}) == 5
    assert lost.compare({("in", "a"): 12, ("out", "b"): 3}) == 0


def test_a_packet_that_was_only_late_is_not_lost():
    lost = LostCount()
    lost.compare({})
    assert lost.compare({("in", "a"): 2}) == 0
    lost.received(2)
    assert lost.compare({("in", "a"): 2}) == 0


def test_a_table_made_anew_counts_from_zero():
    lost = LostCount()
    lost.compare({("in", "a"): 50})
    lost.received(4)
    lost.compare({("in", "a"): 7})
    assert lost.compare({("in", "a"): 7}) == 3
