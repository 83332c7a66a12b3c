"""The audit log in SQL."""

from __future__ import annotations

from sqlalchemy import Connection, func, insert, select

from segctl_controller.store.records import Entry
from segctl_controller.store.tables import audit

_NEXT = select(func.coalesce(func.max(audit.c.sequence), 0) + 1).scalar_subquery()
"""One writer at a time, and rows never go: without gaps, which PostgreSQL's own sequences have."""


def append(connection: Connection, entry: Entry) -> None:
    connection.execute(
        insert(audit).values(
            sequence=_NEXT,
            at_us=entry.at_us,
            actor=entry.actor,
            action=entry.action,
            subject=entry.subject,
            detail=entry.detail,
        )
    )


def newest(connection: Connection, limit: int) -> tuple[Entry, ...]:
    wanted = select(audit).order_by(audit.c.sequence.desc()).limit(limit)
    return tuple(
        Entry(row["at_us"], row["actor"], row["action"], row["subject"], row["detail"], row["sequence"])
        for row in connection.execute(wanted).mappings()
    )
