"""Which kind of update is to blame for a wrong verdict."""

from __future__ import annotations

import pytest

from bench.probing import Wrong
from bench.updates import Done, blamed

LOG = [Done("policy changes", 100, 200), Done("unit restarts", 300, 350), Done("tamperings healed", 400, 500)]


@pytest.mark.parametrize(
    ("since", "until", "kinds"),
    [
        (150, 160, ("policy changes",)),
        (50, 320, ("policy changes", "unit restarts")),
        (360, 390, ("after unit restarts",)),
        (600, 700, ("after tamperings healed",)),
    ],
)
def test_those_under_way_are_blamed_or_the_last_one_before(since, until, kinds):
    assert blamed(Wrong(since, until, "dropped"), LOG) == kinds


def test_a_line_of_the_probes_is_two_times_and_what_happened():
    assert Wrong.parse("1 22 port 8080 dropped") == Wrong(1, 22, "port 8080 dropped")
    with pytest.raises(ValueError, match="invalid literal"):
        Wrong.parse("a line of something else")
