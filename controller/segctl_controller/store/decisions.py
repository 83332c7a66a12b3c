"""What people decided about suggested rules, in SQL."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import Connection, delete, func, insert, select

from segctl_controller.errors import LimitError, NotFoundError
from segctl_controller.store import audit
from segctl_controller.store.records import DecisionRecord, Entry
from segctl_controller.store.refusals import MOST_DECISIONS, no_decision, too_many_decisions
from segctl_controller.store.tables import suggestion_decisions

columns = suggestion_decisions.c


def decide(connection: Connection, decision: DecisionRecord, entry: Entry) -> None:
    connection.execute(delete(suggestion_decisions).where(columns.id == decision.id))
    if (connection.scalar(select(func.count()).select_from(suggestion_decisions)) or 0) >= MOST_DECISIONS:
        raise LimitError(too_many_decisions())
    connection.execute(insert(suggestion_decisions).values(asdict(decision)))
    audit.append(connection, entry)


def decisions(connection: Connection) -> tuple[DecisionRecord, ...]:
    wanted = select(suggestion_decisions).order_by(columns.at_us, columns.id)
    return tuple(DecisionRecord(**row) for row in connection.execute(wanted).mappings())


def forget(connection: Connection, identifier: str, entry: Entry) -> None:
    if not connection.execute(delete(suggestion_decisions).where(columns.id == identifier)).rowcount:
        raise NotFoundError(no_decision(identifier))
    audit.append(connection, entry)
