"""How often each rule has permitted something on this host: totals that outlive the table and the agent. Pure.

The kernel counts in named counters, one for each rule and direction, which keep their values while the table stands and
no agent runs. A total is what was counted before plus what the counter has gained; one that fell was made anew, or
reset by someone, and starts from zero.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from segctl.errors import StateError
from segctl.policy.syntax.grammar import check_name

from segctl_agent.identity import Direction
from segctl_agent.render.workloads import counter_name

MOST_RULES = 20_000
"""Rules and directions that are remembered; those of the oldest last hit make room."""


@dataclass(frozen=True, slots=True)
class Hits:
    """`last_us`: Unix time, exact to the interval of the looks; 0: never."""

    rule: str
    direction: Direction
    count: int
    last_us: int


@dataclass(slots=True)
class _Known:
    count: int = 0
    last_us: int = 0
    seen: int = 0  # what the kernel's counter held at the last look


class HitCounter:
    """`look` takes the kernel's counters in; `changed` gives what grew since it was last asked. `enrolment` names the
    one that totals belong to."""

    def __init__(self, enrolment: str = "") -> None:
        self._enrolment = enrolment
        self._known: dict[tuple[Direction, str], _Known] = {}
        self._changed: set[tuple[Direction, str]] = set()

    def look(self, packets: Mapping[str, int], now_us: int) -> None:
        """`packets` are the kernel's counters by name; names that are not of a rule are left out."""
        found = {key: value for name, value in packets.items() if (key := _key(name)) is not None}
        for key, value in found.items():
            known = self._known.setdefault(key, _Known())
            gained = value - known.seen if value >= known.seen else value
            known.seen = value
            if gained:
                known.count += gained
                known.last_us = now_us
                self._changed.add(key)
        for key, known in self._known.items():
            if key not in found:
                known.seen = 0  # its counter is gone: a new one starts from zero
        self._bound()

    def changed(self) -> tuple[Hits, ...]:
        keys, self._changed = sorted(self._changed), set()
        return tuple(self._hits(key) for key in keys)

    def all(self) -> tuple[Hits, ...]:
        return tuple(self._hits(key) for key in sorted(self._known))

    def _hits(self, key: tuple[Direction, str]) -> Hits:
        known = self._known[key]
        return Hits(key[1], key[0], known.count, known.last_us)

    def _bound(self) -> None:
        if len(self._known) > MOST_RULES:
            by_age = sorted(self._known, key=lambda k: (self._known[k].seen > 0, self._known[k].last_us))
            for key in by_age[: len(self._known) - MOST_RULES]:
                del self._known[key]
                self._changed.discard(key)

    def dump(self) -> bytes:
        """For the disk."""
        rows = [[d, rule, k.count, k.last_us, k.seen] for (d, rule), k in sorted(self._known.items())]
        stored = {"version": 1, "enrolment": self._enrolment, "hits": rows}
        return json.dumps(stored, separators=(",", ":")).encode()

    def load(self, content: bytes) -> None:
        """Raises StateError when it is not what `dump` wrote; nothing is changed then. All that is known is told
        again: the controller may not have heard it. Of another enrolment, which the controller keeps the totals of, no
        more is taken than what the kernel's counters held: they count on."""
        try:
            stored = json.loads(content)
            rows = list(_rows(stored["hits"]))
            another = stored.get("enrolment", self._enrolment) != self._enrolment
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise StateError(f"the stored hits of rules do not read ({error}): they are counted anew") from error
        self._known = {(d, rule): _Known(seen=k.seen) if another else k for d, rule, k in rows}
        self._changed = {key for key, known in self._known.items() if known.count}


def _rows(rows: Iterable[object]) -> Iterable[tuple[Direction, str, _Known]]:
    for row in rows:
        if not isinstance(row, list) or len(row) != 5 or row[0] not in ("in", "out") or not isinstance(row[1], str):
            raise ValueError(f"{str(row)[:80]} is no row")
        if check_name(row[1]) is not None:
            raise ValueError(f"{row[1][:80]!r} is no name of a rule")
        numbers = row[2:]
        if not all(isinstance(n, int) and 0 <= n < 1 << 63 for n in numbers):
            raise ValueError(f"{str(row)[:80]} holds no counts")
        yield row[0], row[1], _Known(*numbers)


def _key(name: str) -> tuple[Direction, str] | None:
    """None for what cannot be a rule's: others may make counters of any name, and no report could carry it."""
    for direction in ("in", "out"):
        start = counter_name(direction, "")
        if name.startswith(start) and check_name(name[len(start) :]) is None:
            return direction, name[len(start) :]
    return None
