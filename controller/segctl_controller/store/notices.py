"""What changed, told to the other processes that use the database: several controllers on PostgreSQL, or the command
line beside the one on SQLite.

Each transaction that changes something leaves one row, with a number that has no gap, which is its place in the order
of all changes. PostgreSQL wakes those who listen (NOTIFY, at the commit), SQLite is polled; what is missed meanwhile is
read from the rows. Rows go when there are many: who missed those is told that everything may be different.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple, Protocol

from sqlalchemy import Connection, delete, func, insert, select

from segctl_controller.store.tables import notices

KEPT = 10_000
"""Rows, at least; they go when a twentieth more are there."""
MANY = 1_000
"""More hosts in one transaction are not named."""


class Topic(IntFlag):
    """The numbers are those of the database."""

    GENERATIONS = 1
    HOSTS = 2
    OPERATORS = 4
    TOKENS = 8
    PRESENCE = 16
    TRIALS = 32
    QUESTIONS = 64


NOTHING = Topic(0)
ALL = Topic(127)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something of each of `topics` is different. `hosts` are the names of those that changed, came or went; None: it
    may be any."""

    topics: Topic
    hosts: frozenset[str] | None = frozenset()

    def __or__(self, other: Notice) -> Notice:
        hosts = None if self.hosts is None or other.hosts is None else self.hosts | other.hosts
        return Notice(self.topics | other.topics, hosts)


EVERYTHING = Notice(ALL, None)


class Notices(Protocol):
    def listen(self) -> AsyncGenerator[Notice, None]:
        """EVERYTHING as soon as it listens: who reads the store after that misses nothing. Then what other processes
        changed, many changes as one when they come fast, after each was committed. Runs until it is closed: when the
        database is away it connects again, and tells what changed meanwhile."""


class NoNotices:
    """Of a store that nobody else has."""

    async def listen(self) -> AsyncGenerator[Notice, None]:
        yield EVERYTHING
        await asyncio.Event().wait()


class Row(NamedTuple):
    """Of the table, as drivers give it."""

    id: int
    origin: str
    topics: int
    hosts: str


def publish(connection: Connection, origin: str, notice: Notice) -> int:
    """The number of the new row, in the transaction of what it tells. `origin` is who writes it."""
    hosts = "" if notice.hosts is None or len(notice.hosts) > MANY else json.dumps(sorted(notice.hosts))
    following = select(func.coalesce(func.max(notices.c.id), 0) + 1).scalar_subquery()
    values = {"id": following, "origin": origin, "topics": int(notice.topics), "hosts": hosts}
    number: int = connection.execute(insert(notices).values(values).returning(notices.c.id)).scalar_one()
    if number % (KEPT // 20) == 0:
        connection.execute(delete(notices).where(notices.c.id <= number - KEPT))
    return number


READ = "SELECT id, origin, topics, hosts FROM notices WHERE id >= {} ORDER BY id"
"""From the last row that was seen, which is there still when none after it has gone."""


def news(found: Sequence[Row], seen: int, origin: str) -> tuple[int, Notice | None]:
    """The last row that is seen now, and what others changed after `seen`, of what READ found. The database is another
    one, or rows are gone, when the first is not the one that was seen before all."""
    if not found:
        return (0, EVERYTHING) if seen else (0, None)
    if found[0].id != (seen or 1):
        return found[-1].id, EVERYTHING
    notice = None
    for row in found:
        if row.id > seen and row.origin != origin:
            told = Notice(Topic(row.topics), frozenset(json.loads(row.hosts)) if row.hosts else None)
            notice = told if notice is None else notice | told
    return found[-1].id, notice
