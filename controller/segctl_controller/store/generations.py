"""Generations in SQL. Numbers are given under the lock of the one writer."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Connection, delete, func, insert, select, update

from segctl_controller.errors import ConflictError
from segctl_controller.store import audit, rows
from segctl_controller.store.records import Entry, GenerationRecord, GenerationState
from segctl_controller.store.refusals import base_moved, not_on_trial, on_trial
from segctl_controller.store.tables import generations, trials

_CONFIRMED = generations.c.state == GenerationState.CONFIRMED.value
_TRIAL = generations.c.state == GenerationState.TRIAL.value


def add(connection: Connection, new: GenerationRecord, expect_base: int, entry: Entry, above: int) -> GenerationRecord:
    number = generations.c.number
    active = connection.scalar(select(func.max(number)).where(_CONFIRMED)) or 0
    if expect_base not in (0, active):
        raise ConflictError(base_moved(expect_base, active))
    trial = connection.scalar(select(number).where(_TRIAL))
    if trial is not None:
        raise ConflictError(on_trial(trial))
    newest = connection.scalar(select(func.max(number))) or 0
    stored = replace(new, number=max(newest, above) + 1)
    connection.execute(insert(generations).values({"number": stored.number, **rows.generation_values(stored)}))
    audit.append(connection, replace(entry, subject=f"generation {stored.number}"))
    return stored


def settle(connection: Connection, number: int, state: GenerationState, why: str, entry: Entry) -> GenerationRecord:
    change = update(generations).where(generations.c.number == number, _TRIAL).values(state=state.value, why=why)
    if connection.execute(change).rowcount != 1:
        raise ConflictError(not_on_trial(number))
    connection.execute(delete(trials))
    audit.append(connection, entry)
    row = connection.execute(select(generations).where(generations.c.number == number)).mappings().one()
    return rows.generation_of(dict(row), with_files=True)


def one(connection: Connection, number: int) -> GenerationRecord | None:
    wanted = select(generations).where(generations.c.number == number if number else _CONFIRMED)
    row = connection.execute(wanted.order_by(generations.c.number.desc()).limit(1)).mappings().first()
    return rows.generation_of(dict(row), with_files=True) if row else None


def newest(connection: Connection, limit: int) -> tuple[GenerationRecord, ...]:
    columns = [c for c in generations.c if c.name != "files"]
    found = connection.execute(select(*columns).order_by(generations.c.number.desc()).limit(limit)).mappings()
    return tuple(rows.generation_of(dict(row), with_files=False) for row in found)
