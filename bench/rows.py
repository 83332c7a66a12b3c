"""The result of a measurement as a value, as a line of the table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Relation = Literal[">=", ">", "<=", "<", "=="]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a row's value has to be, in the row's unit."""

    relation: Relation
    bound: float

    def holds(self, value: float) -> bool:
        match self.relation:
            case ">=":
                return value >= self.bound
            case ">":
                return value > self.bound
            case "<=":
                return value <= self.bound
            case "<":
                return value < self.bound
            case "==":
                return value == self.bound

    def __str__(self) -> str:
        return f"{self.relation} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `value` is None when it could not be measured: `how` then says why. Context rows have no goal."""

    name: str
    value: float | None
    unit: str
    how: str
    goal: Goal | None = None

    @property
    def holds(self) -> bool | None:
        """None for context rows; a figure with a goal that could not be measured does not hold."""
        if self.goal is None:
            return None
        return self.value is not None and self.goal.holds(self.value)


def to_json(rows: Iterable[Row]) -> str:
    """A JSON list of {name, value, unit, goal, holds, how}."""
    return json.dumps(
        [
            {
                "name": r.name,
                "value": r.value,
                "unit": r.unit,
                "goal": None if r.goal is None else str(r.goal),
                "holds": r.holds,
                "how": r.how,
            }
            for r in rows
        ],
        indent=2,
    )


def table(rows: Sequence[Row]) -> str:
    """The rows without their `how`, one a line, in aligned columns."""
    cells = [("figure", "value", "unit", "goal", "holds")] + [
        (
            r.name,
            "not measured" if r.value is None else _number(r.value),
            r.unit,
            "" if r.goal is None else str(r.goal),
            {None: "", True: "yes", False: "NO"}[r.holds],
        )
        for r in rows
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(5)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e12:
        return str(int(value))
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
