"""Rows: goals, the JSON form and the table."""

from __future__ import annotations

import json

import pytest

from bench.rows import Goal, Row, table, to_json


@pytest.mark.parametrize(
    ("relation", "bound", "good", "bad"),
    [(">=", 0.95, 0.95, 0.949), ("<=", 60, 60, 61), ("<", 5, 4.9, 5), ("==", 0, 0, 1)],
)
def test_a_goal_holds_on_its_side_of_the_bound(relation, bound, good, bad):
    goal = Goal(relation, bound)
    assert goal.holds(good)
    assert not goal.holds(bad)


def test_json_has_the_agreed_keys_and_a_goal_as_text():
    rows = json.loads(to_json([Row("a", 0.5, "ratio", "so", Goal(">=", 0.95)), Row("b", 3.0, "ms", "so")]))
    assert rows[0] == {"name": "a", "value": 0.5, "unit": "ratio", "goal": ">= 0.95", "holds": False, "how": "so"}
    assert rows[1]["goal"] is None
    assert rows[1]["holds"] is None


def test_a_figure_with_a_goal_that_was_not_measured_does_not_hold():
    row = Row("a", None, "ms", "not measured: no kernel", Goal("<", 5))
    assert row.holds is False
    assert "not measured" in table([row])
    assert "NO" in table([row])


def test_the_table_keeps_columns_aligned():
    lines = table([Row("short", 1.0, "x", ""), Row("a longer name", 0.123456, "y", "")]).splitlines()
    assert [line.index(unit) for line, unit in zip(lines[1:], "xy", strict=True)] == [lines[0].index("unit")] * 2
    assert "0.123" in lines[2]
