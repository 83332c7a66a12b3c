"""Operators in SQL."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, insert, select, update

from segctl_controller.errors import AlreadyExistsError, NotFoundError
from segctl_controller.store import audit, rows
from segctl_controller.store.records import Entry, OperatorRecord
from segctl_controller.store.refusals import no_operator, operator_taken
from segctl_controller.store.tables import operators


def add(connection: Connection, operator: OperatorRecord, entry: Entry) -> None:
    if connection.scalar(select(func.count()).where(operators.c.name == operator.name)):
        raise AlreadyExistsError(operator_taken(operator.name))
    connection.execute(insert(operators).values(rows.operator_values(operator)))
    audit.append(connection, entry)


def every(connection: Connection) -> tuple[OperatorRecord, ...]:
    wanted = select(operators).order_by(operators.c.name)
    return tuple(rows.operator_of(dict(row)) for row in connection.execute(wanted).mappings())


def named(connection: Connection, name: str) -> OperatorRecord | None:
    row = connection.execute(select(operators).where(operators.c.name == name)).mappings().first()
    return rows.operator_of(dict(row)) if row else None


def renew(connection: Connection, name: str, serial: str, entry: Entry) -> None:
    if not connection.execute(update(operators).where(operators.c.name == name).values(serial=serial)).rowcount:
        raise NotFoundError(no_operator(name))
    audit.append(connection, entry)


def remove(connection: Connection, name: str, entry: Entry) -> None:
    if not connection.execute(delete(operators).where(operators.c.name == name)).rowcount:
        raise NotFoundError(no_operator(name))
    audit.append(connection, entry)
