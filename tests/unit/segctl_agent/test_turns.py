"""Which controller an agent tries next."""

from __future__ import annotations

from segctl_agent.turns import SILENT_SECONDS, Turns

ONE, TWO, THREE = "ctl1:7443", "ctl2:7443", "ctl3:7443"
ALL = (ONE, TWO, THREE)


def tried(turns: Turns, now: float, count: int, controllers: tuple[str, ...] = ALL) -> list[str]:
    """Each says no."""
    found = []
    for _ in range(count):
        found.append(turns.next(controllers, now))
        turns.left(found[-1], now, silent=False)
    return found


def test_they_are_tried_by_turns() -> None:
    turns = Turns()
    assert turns.next(ALL, 0.0) == turns.next(ALL, 0.0) == ONE
    assert tried(turns, 0.0, 4) == [ONE, TWO, THREE, ONE]


def test_one_that_was_silent_is_passed_over_for_a_while() -> None:
    turns = Turns()
    turns.left(turns.next(ALL, 0.0), 0.0, silent=True)
    assert tried(turns, 1.0, 4) == [TWO, THREE, TWO, THREE]
    assert ONE in tried(turns, SILENT_SECONDS, 3)


def test_silent_ones_are_tried_where_there_are_no_others() -> None:
    turns, found = Turns(), []
    for _ in range(4):
        found.append(turns.next(ALL, 0.0))
        turns.left(found[-1], 0.0, silent=True)
    assert found == [ONE, TWO, THREE, ONE]
    assert tried(turns, 1.0, 3) == [TWO, TWO, TWO]  # it answers now, if only to say no


def test_the_only_one_is_tried_whatever_it_says() -> None:
    turns = Turns()
    turns.left(ONE, 0.0, silent=True)
    assert tried(turns, 1.0, 2, (ONE,)) == [ONE, ONE]


def test_one_that_answers_again_is_no_longer_silent() -> None:
    turns = Turns()
    turns.left(ONE, 0.0, silent=True)
    turns.left(ONE, 1.0, silent=False)
    assert ONE in tried(turns, 1.0, 3)


def test_it_is_known_whether_another_one_may_answer() -> None:
    turns = Turns()
    assert turns.others(ONE, ALL, 0.0)
    assert not turns.others(ONE, (ONE,), 0.0)
    turns.left(TWO, 0.0, silent=True)
    turns.left(THREE, 0.0, silent=True)
    assert not turns.others(ONE, ALL, 1.0)
    assert turns.others(ONE, ALL, SILENT_SECONDS)
