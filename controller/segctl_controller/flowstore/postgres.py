"""PostgreSQL, shared by the replicas of a controller: rows come in by COPY, in its binary format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
from segctl.errors import StateError
from sqlalchemy import Connection, Executable, Select, Table, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool
from sqlalchemy.schema import ExecutableDDLElement

from segctl_controller.errors import StoreFullError
from segctl_controller.flowstore.database import Columns, Work
from segctl_controller.store.conninfo import Conninfo

SCHEMA_LOCK, KEEPING_LOCK = 0x5E6C7101, 0x5E6C7102
"""Advisory locks: who makes the tables, who keeps them small."""
FULL = ("53100", "53000")
"""SQLSTATE of a full disk (https://www.postgresql.org/docs/15/errcodes-appendix.html)."""
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
"""https://www.postgresql.org/docs/15/sql-copy.html, Binary Format"""
INDEX = "CREATE INDEX IF NOT EXISTS flow_rows_minute ON flow_rows USING brin (minute) WITH (autosummarize)"
"""Rows lie on the disk about as they came: a range of time is a few pages of a small index."""
WIDTHS = {"SMALLINT": ">i2", "INTEGER": ">i4", "BIGINT": ">i8"}


class PostgresWork:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def rows(self, statement: Executable) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.connection.execute(statement)]

    def columns(self, statement: Select[Any]) -> list[list[int]]:
        found = self.rows(statement)
        return [list(column) for column in zip(*found, strict=True)] or [[] for _ in statement.selected_columns]

    def run(self, statement: Executable) -> int:
        return self.connection.execute(statement).rowcount

    def append(self, table: Table, columns: Columns) -> None:
        names = [column.name for column in table.columns]
        cursor: Any = self.connection.connection.cursor()
        with cursor.copy(f"COPY {table.name} ({', '.join(names)}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(HEADER)
            copy.write(_tuples(table, columns))
            copy.write(TRAILER)

    def merge(self, table: Table, columns: Columns, key: str, change: str) -> None:
        arrays = ", ".join(f"CAST(:{name} AS {table.c[name].type}[])" for name in columns)
        sql = f"INSERT INTO {table.name} ({', '.join(columns)}) SELECT * FROM unnest({arrays}) ON CONFLICT ({key})"  # noqa: S608
        values = {name: column.tolist() for name, column in columns.items()}
        self.connection.execute(text(f"{sql} DO {change}"), values)


def _tuples(table: Table, columns: Columns) -> bytes:
    """Each row: the number of fields (16 bits), then each field's length (32 bits) and value, all big-endian."""
    types = {column.name: WIDTHS[str(column.type)] for column in table.columns}
    layout = [("fields", ">i2")]
    for name, kind in types.items():
        layout += [(f"{name}_length", ">i4"), (name, kind)]
    tuples = np.empty(len(next(iter(columns.values()))), dtype=layout)
    tuples["fields"] = len(types)
    for name, kind in types.items():
        tuples[f"{name}_length"] = np.dtype(kind).itemsize
        tuples[name] = columns[name]
    return tuples.tobytes()


class PostgresDatabase:
    """Implements segctl_controller.flowstore.database.Database."""

    shared = True

    def __init__(self, where: Conninfo) -> None:
        self._name = where.name
        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: psycopg.connect(**where.parameters),  # type: ignore[arg-type]
            poolclass=QueuePool,
            pool_size=4,
            max_overflow=0,
            pool_pre_ping=True,
        )
        self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def prepare(self, schema: Sequence[ExecutableDDLElement]) -> None:
        with self.transaction() as work:
            work.run(text(f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})"))
            for statement in schema:
                work.run(statement)
            work.run(text(INDEX))

    @contextmanager
    def transaction(self) -> Iterator[Work]:
        with self._translated(), self._engine.begin() as connection:
            yield PostgresWork(connection)

    @contextmanager
    def reading(self) -> Iterator[Work]:
        with self._translated(), self._reader.begin() as connection:
            yield PostgresWork(connection)

    def alone(self, work: Work) -> bool:
        return bool(work.rows(text(f"SELECT pg_try_advisory_xact_lock({KEEPING_LOCK})"))[0][0])

    def bytes(self, work: Work) -> int:
        return int(work.rows(text("SELECT pg_total_relation_size('flow_rows')"))[0][0])

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            what = str(error.orig).splitlines()[0] if error.orig else "no reason given"
            if getattr(error.orig, "sqlstate", "") in FULL:
                raise StoreFullError(
                    f"{self._name}: the disk of the database is full ({what}); nothing was stored; free some space"
                ) from error
            raise StateError(f"{self._name}: the flow store cannot be used ({what}); see the database's log") from error
