"""Hits of rules: totals that survive whatever happens to the kernel's counters and to the agent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl.errors import StateError
from segctl_agent.hits import MOST_RULES, HitCounter, Hits

IN, OUT = "r_in_web-to-db", "r_out_web-to-db"


def test_what_the_counter_gains_is_added_and_told_once() -> None:
    counter = HitCounter()
    counter.look({IN: 0, OUT: 3, "other": 9}, 100)
    assert counter.changed() == (Hits("web-to-db", "out", 3, 100),)
    counter.look({IN: 1, OUT: 3}, 200)
    assert counter.changed() == (Hits("web-to-db", "in", 1, 200),)
    assert counter.changed() == ()
    assert counter.all() == (Hits("web-to-db", "in", 1, 200), Hits("web-to-db", "out", 3, 100))


STEP = st.one_of(
    st.tuples(st.just("hit"), st.integers(1, 5)), st.tuples(st.sampled_from(["anew", "restart"]), st.just(0))
)


@given(st.lists(STEP, max_size=40))
def test_no_hit_is_lost_or_counted_twice(steps: list[tuple[str, int]]) -> None:
    """The kernel counts on while the agent is away; a table made anew is looked at before it counts further."""
    counter, kernel, total = HitCounter(), 0, 0
    for what, hits in steps:
        if what == "hit":
            kernel, total = kernel + hits, total + hits
        elif what == "anew":
            counter.look({IN: kernel}, 1)  # before the counter goes
            kernel = 0
            counter.look({}, 1)
        else:
            stored = counter.dump()
            counter = HitCounter()
            counter.load(stored)
        if hits != 1:
            counter.look({IN: kernel}, 1)
    counter.look({IN: kernel}, 2)
    assert sum(h.count for h in counter.all()) == total


def test_after_a_restart_everything_is_told_again() -> None:
    counter = HitCounter()
    counter.look({IN: 7}, 5)
    again = HitCounter()
    again.load(counter.dump())
    assert again.changed() == (Hits("web-to-db", "in", 7, 5),)


def test_another_enrolment_begins_at_zero_and_counts_nothing_of_before_again() -> None:
    """The controller keeps what was counted before: told once more, it would be there twice (ADR 11)."""
    counter = HitCounter("first")
    counter.look({IN: 7}, 5)
    again = HitCounter("second")
    again.load(counter.dump())
    again.look({IN: 9}, 6)  # the kernel's counter went on
    assert again.all() == (Hits("web-to-db", "in", 2, 6),)
    back = HitCounter("second")
    back.load(again.dump())
    assert back.all() == again.all()


@pytest.mark.parametrize("name", ["r_in_\udcff", "r_in_a b", "r_in_", "r_out_" + "x" * 200, "r_in_\n"])
def test_a_counter_that_somebody_named_like_ours_is_nobodys(name: str) -> None:
    """A name that no message can carry would end the agent, and again at each start."""
    counter = HitCounter()
    counter.look({name: 3, IN: 1}, 5)
    assert counter.all() == (Hits("web-to-db", "in", 1, 5),)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"hits":[["in","\\udcff",1,1,1]]}',
        b"{}",
        b'{"hits":1}',
        b'{"hits":[["x","r",1,1,1]]}',
        b'{"hits":[["in","r",-1,1,1]]}',
    ],
)
def test_what_does_not_read_is_an_error_and_changes_nothing(content: bytes) -> None:
    counter = HitCounter()
    counter.look({IN: 7}, 5)
    with pytest.raises(StateError):
        counter.load(content)
    assert counter.all() == (Hits("web-to-db", "in", 7, 5),)


def test_the_number_of_rules_is_bounded() -> None:
    counter = HitCounter()
    counter.look({f"r_in_old{n}": 1 for n in range(MOST_RULES)}, 1)
    counter.look({IN: 1}, 2)
    assert len(counter.all()) == MOST_RULES
    assert Hits("web-to-db", "in", 1, 2) in counter.all()
