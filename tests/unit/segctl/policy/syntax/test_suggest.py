from __future__ import annotations

from segctl.policy.syntax.suggest import Suggester, quoted


def test_the_nearest_word_is_suggested() -> None:
    assert Suggester().mend("postgers", ["postgres", "ssh"]) == "did you mean postgres?"
    assert Suggester().mend("Prod", ["dev", "prod"]) == "did you mean prod?"


def test_a_far_word_is_not() -> None:
    assert Suggester().mend("zzz", ["postgres", "ssh"], "declare it") == "declare it"


def test_suggestions_end_with_the_budget() -> None:
    suggester = Suggester(budget=3)
    assert suggester.mend("sh", ["ssh", "dns"]) == "did you mean ssh?"
    assert suggester.mend("sh", ["ssh", "dns"], "declare it") == "declare it"


def test_quoting_disarms_and_shortens() -> None:
    assert quoted("a\x1b[31m") == "'a\\x1b[31m'"
    assert len(quoted("x" * 1000)) < 70
