"""Waiting ends with the condition, or with words at the deadline."""

import pytest

from lab.wait import DeadlineError, until


def test_what_came_true_is_returned():
    answers = iter([0, "", "yes"])
    assert until("a word", lambda: next(answers), seconds=5, every=0.001) == "yes"


def test_the_deadline_says_what_did_not_come():
    with pytest.raises(DeadlineError, match=r"not so after 0\.01 s: a word"):
        until("a word", lambda: None, seconds=0.01, every=0.001)
