"""Keeps the flow store small: rows of a minute become one, minutes become hours, and the oldest go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from sqlalchemy import ColumnElement, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert

from segctl_controller.flowstore.database import Database, Work
from segctl_controller.flowstore.queries import MINUTES, TOTALS, days_of_rules, hours_of
from segctl_controller.flowstore.records import DAY_US, LARGEST_COUNT, MINUTE_US, FlowLimits
from segctl_controller.flowstore.tables import KEY, cuts, losses, rows, rule_days

r = rows.c
AS_TOLD, A_MINUTE, AN_HOUR = 0, 1, 2
"""The column `folded`."""
OPEN_MINUTES = 2
"""So old is a minute before its rows are folded: agents tell of it every few seconds."""
SLACK = 20
"""Rows are counted once a twentieth of the limit came in."""
RULE_DAYS = 400
"""For so long it is known on which days a rule was used: a year, and a month in which to notice."""
MOST_RULE_DAYS = 4_000_000
LOSE_MORE = f"UPDATE SET lost = least(flow_lost.lost + excluded.lost, {LARGEST_COUNT})"


class Retention:
    def __init__(self, database: Database, limits: FlowLimits) -> None:
        self._database = database
        self._limits = limits
        self._unchecked = limits.rows
        self._noted = False

    def added(self, number: int) -> None:
        self._unchecked += number

    @property
    def due(self) -> bool:
        """Rows came in that were not counted yet: a flood does not wait for the next round."""
        return self._unchecked >= max(1, self._limits.rows // SLACK)

    def keep(self, now_us: int) -> None:
        """One round; nothing, where another replica makes it."""
        now = now_us // MINUTE_US
        with self._database.transaction() as work:
            if not self._database.alone(work):
                return
            oldest = (now_us - self._limits.days * DAY_US) // MINUTE_US
            oldest -= oldest % MINUTES
            work.run(delete(rows).where(r.minute < oldest))
            work.run(delete(losses).where(losses.c.hour < oldest // MINUTES))
            work.run(delete(rule_days).where(rule_days.c.day < now_us // DAY_US - RULE_DAYS))
            if not self._noted and not work.rows(select(rule_days.c.day).limit(1)):
                # Hours that were folded before anybody noted days, or taken over from an earlier controller.
                self._note_days(work, (r.folded == AN_HOUR,))
        self._noted = True
        self._fold(A_MINUTE, now - OPEN_MINUTES)
        hours = now - self._limits.minute_hours * MINUTES
        self._fold(AN_HOUR, hours - hours % MINUTES)
        if self.due:
            self._prune()

    def _fold(self, into: int, before: int) -> None:
        """Rows of minutes before `before` that are not so yet, one hour in each transaction."""
        open_rows = (r.folded < into, r.minute < before)
        slot = (r.minute - r.minute % MINUTES).label("hour")
        with self._database.reading() as work:
            hours = [hour for (hour,) in work.rows(select(slot).where(*open_rows).distinct().order_by(slot))]
        for hour in hours:
            these = (*open_rows, r.minute >= hour, r.minute < hour + MINUTES)
            minute = literal(hour).label("minute") if into == AN_HOUR else r.minute
            key = KEY if into == AN_HOUR else (r.minute, *KEY)
            spans = (func.min(r.first_us), func.max(r.last_us))
            folded = select(minute, literal(into), *KEY, *TOTALS, *spans).where(*these).group_by(*key)
            with self._database.transaction() as work:
                if not self._database.alone(work):
                    return
                if into == AN_HOUR:
                    self._note_days(work, these)
                # Both look at the rows as they were: what is inserted is folded, and stays.
                work.run(insert(rows).from_select(list(rows.c), folded))
                work.run(delete(rows).where(*these))

    def _note_days(self, work: Work, these: Sequence[ColumnElement[bool]]) -> None:
        """On which days rules were used, for when the flows are gone. Names are what hosts say, so there is an end."""
        [(number,)] = work.rows(select(func.count()).select_from(rule_days))
        if number < MOST_RULE_DAYS:
            told = days_of_rules(*these)
            work.run(insert(rule_days).from_select(["rule", "day"], told).on_conflict_do_nothing())

    def _prune(self) -> None:
        """Whole hours, the oldest first, of the hosts with most rows: a host that floods pushes out its own. Each keeps
        its newest rows up to a level that is the same for all."""
        with self._database.transaction() as work:
            if not self._database.alone(work):
                return
            counts = dict(work.rows(select(r.host, func.count()).group_by(r.host)))
            keep = self._room(work, sum(counts.values()))
            level = level_of(counts.values(), keep)
            heavy = [host for host, count in counts.items() if count > level]
            if heavy:
                self._cut(work, heavy, level)
        self._unchecked = 0

    def _room(self, work: Work, number: int) -> int:
        """How many rows may stay. Bytes are a matter of rows: what a deleted row took is free for others."""
        most = self._limits.megabytes * 1_000_000
        taken = self._database.bytes(work)
        return min(self._limits.rows, number * most // taken if taken > most else number)

    def _cut(self, work: Work, heavy: list[int], level: int) -> None:
        gone = [row for row in work.rows(hours_of(heavy)) if row[3] > level]
        before: dict[int, int] = {}
        for host, hour, _, _ in gone:
            before[host] = max(before.get(host, 0), hour + MINUTES)
        work.append(cuts, {"host": _integers(before.keys()), "before": _integers(before.values())})
        work.run(delete(rows).where(r.host == cuts.c.host, r.minute < cuts.c.before))
        work.run(delete(cuts))
        lose(work, {(host, hour // MINUTES): int(flows) for host, hour, flows, _ in gone if flows})


def level_of(counts: Iterable[int], keep: int) -> int:
    """The highest level at which rows of all hosts, each cut down to it, are at most `keep`; never below 1."""
    ordered = sorted(counts)
    left = keep
    for at, count in enumerate(ordered):
        share = left // (len(ordered) - at)
        if count > share:
            return max(share, 1)
        left -= count
    return max(ordered, default=1)


def lose(work: Work, lost: Mapping[tuple[int, int], int]) -> None:
    """Flows that are in no row, by host and hour."""
    if lost:
        hosts, hours = zip(*lost, strict=True)
        numbers = {"host": _integers(hosts), "hour": _integers(hours), "lost": _integers(lost.values())}
        work.merge(losses, numbers, "host, hour", LOSE_MORE)


def _integers(values: Iterable[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.fromiter(values, dtype=np.int64)
