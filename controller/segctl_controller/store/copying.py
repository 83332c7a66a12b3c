"""A whole database into another one, whichever they are: how PostgreSQL is backed up, and how a fleet moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData, RowMapping, Table, func, insert, select, types
from sqlalchemy import text as sql

from segctl_controller.store import dialect
from segctl_controller.store.migrate import VERSION, newest, upgrade
from segctl_controller.store.sqlite import create_file

PASSING = frozenset({"presence", "questions", "replicas", "trials", "web_sessions"})
"""Tables of what controllers tell each other while they run, and of who is signed in."""
ROWS = 2000
"""At a time."""


def copy_rows(source: Connection, target: Connection) -> None:
    """Every row of every table that is not PASSING. Both have the same schema, and the tables of `target` are empty."""
    for table in _tables(source if source.dialect.name == "sqlite" else target):
        found = source.execute(select(table), execution_options={"yield_per": ROWS}).mappings()
        for rows in found.partitions():
            if target.dialect.name == dialect.POSTGRESQL:
                _copy_in(target, table, rows)
            else:
                target.execute(insert(table), [dict(row) for row in rows])
        if target.dialect.name == dialect.POSTGRESQL:
            _count_on(target, table)


def _tables(described: Connection) -> list[Table]:
    """As SQLite describes them, in the order of their references: so a schema of before can be copied too."""
    metadata = MetaData()
    metadata.reflect(described)
    for table in metadata.tables.values():
        for column in table.columns:
            if isinstance(column.type, types.Text):
                column.type = dialect.Text()
    return [table for table in metadata.sorted_tables if table.name not in (VERSION, *PASSING)]


def _copy_in(target: Connection, table: Table, rows: Sequence[RowMapping]) -> None:
    """By COPY, which takes a tenth of the time."""
    names = ", ".join(target.dialect.identifier_preparer.quote(column.name) for column in table.columns)
    driver: Any = target.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row([dialect.without_nul(v) if isinstance(v, str) else v for v in row.values()])


def _count_on(target: Connection, table: Table) -> None:
    """Numbers that PostgreSQL gives begin after those that came with the rows."""
    for column in table.primary_key.columns:
        name = {"table": table.name, "column": column.name}
        sequence = target.scalar(sql("SELECT pg_get_serial_sequence(:table, :column)"), name)
        if sequence:
            largest = target.scalar(select(func.max(column))) or 0
            following = {"sequence": sequence, "next": largest + 1}
            target.execute(sql("SELECT setval(:sequence, :next, false)"), following)


@contextmanager
def new_file(path: Path, schema: str = "") -> Iterator[Connection]:
    """A transaction in a new SQLite file with the tables of `schema`, or of this code's; one file when it ends."""
    engine = create_file(path)
    try:
        with engine.begin() as connection:
            upgrade(connection, str(path), schema or newest())
            yield connection
        with closing(engine.raw_connection()) as raw:
            raw.cursor().execute("PRAGMA journal_mode=DELETE")
    finally:
        engine.dispose()
