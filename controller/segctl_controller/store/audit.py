"""The audit log in SQL: appended in the transaction of what it tells, as one chain, and read by page."""

from __future__ import annotations

from segctl.auditchain import GENESIS, link_hash
from sqlalchemy import Connection, func, insert, select

from segctl_controller.store.records import Entry, EntryFilter
from segctl_controller.store.tables import audit

CHAINED = "0007"
"""The schema from which on the log is a chain."""
_HEAD = select(audit.c.sequence, audit.c.hash).order_by(audit.c.sequence.desc()).limit(1)


def append(connection: Connection, entry: Entry) -> None:
    """There is one writer at a time, whatever the database, so no two continue one head; rows never go, so numbers have
    no gap."""
    head = connection.execute(_HEAD).first()
    sequence, previous = (head.sequence, head.hash) if head is not None else (0, GENESIS)
    values = {"sequence": sequence + 1, "at_us": entry.at_us, **dict(zip(entry.TEXTS, entry.texts, strict=True))}
    chained = link_hash(previous, sequence + 1, entry.at_us, *entry.texts)
    connection.execute(insert(audit).values(**values, previous=previous, hash=chained))


def append_unchained(connection: Connection, entry: Entry) -> None:
    """To a database whose schema is of before CHAINED: it is chained when that is brought up."""
    following = select(func.coalesce(func.max(audit.c.sequence), 0) + 1).scalar_subquery()
    values = {name: getattr(entry, name) for name in ("at_us", "actor", "action", "subject", "detail")}
    connection.execute(insert(audit).values(sequence=following, **values))


def page(connection: Connection, limit: int, wanted: EntryFilter) -> tuple[Entry, ...]:
    chosen = select(audit).where(audit.c.at_us >= wanted.since_us, audit.c.sequence > wanted.after)
    for name in ("actor", "action", "subject"):
        if getattr(wanted, name):
            chosen = chosen.where(audit.c[name] == getattr(wanted, name))
    order = audit.c.sequence if wanted.oldest_first else audit.c.sequence.desc()
    found = connection.execute(chosen.order_by(order).limit(limit)).mappings()
    return tuple(Entry(**row) for row in found)
