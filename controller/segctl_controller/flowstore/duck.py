"""DuckDB, embedded: one file beside the controller's database, which this process owns alone."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
from segctl.errors import StateError
from sqlalchemy import Executable, Select, Table, text
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.schema import ExecutableDDLElement

from segctl_controller.errors import StoreFullError
from segctl_controller.flowstore.database import Columns, Work

DIALECT = PGDialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
"""DuckDB's SQL is PostgreSQL's with additions (https://duckdb.org/docs/sql/dialect/postgresql_compatibility)."""
OPTIONS: dict[str, str | bool | int | float | list[str]] = {
    "threads": 2,
    "memory_limit": "1GB",
    "max_temp_directory_size": "4GB",
    "wal_autocheckpoint": "64MB",
    "preserve_insertion_order": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "enable_external_access": False,
}
NO_SPACE = re.compile("No space left|Disk quota exceeded|File too large")


class DuckWork:
    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def rows(self, statement: Executable) -> list[tuple[Any, ...]]:
        return self._run(statement).fetchall()

    def columns(self, statement: Select[Any]) -> list[list[int]]:
        return [column.tolist() for column in self._run(statement).fetchnumpy().values()]

    def run(self, statement: Executable) -> int:
        changed = self._run(statement).fetchone()
        return int(changed[0]) if changed else 0

    def append(self, table: Table, columns: Columns) -> None:
        self._from(f"INSERT INTO {table.name} BY NAME SELECT * FROM told", columns)  # noqa: S608 - our names

    def merge(self, table: Table, columns: Columns, key: str, change: str) -> None:
        conflict = f"ON CONFLICT ({key}) DO {change}"
        self._from(f"INSERT INTO {table.name} BY NAME SELECT * FROM told {conflict}", columns)  # noqa: S608 - our names

    def _from(self, sql: str, columns: Columns) -> None:
        self._connection.register("told", dict(columns))
        try:
            self._connection.execute(sql)
        finally:
            self._connection.unregister("told")

    def _run(self, statement: Executable) -> duckdb.DuckDBPyConnection:
        compiled = statement.compile(dialect=DIALECT, compile_kwargs={"render_postcompile": True})  # type: ignore[attr-defined]
        values = compiled.params
        return self._connection.execute(str(compiled), [values[name] for name in compiled.positiontup or ()])


class DuckDatabase:
    """Implements segctl_controller.flowstore.database.Database. `path` None: in memory."""

    shared = False

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._opening = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._writer: duckdb.DuckDBPyConnection | None = None
        with self._translated():
            self._open()

    def _open(self) -> duckdb.DuckDBPyConnection:
        """The writer's connection; also after an error that left the database unusable: what was committed is in its
        log."""
        with self._opening:
            if self._connection is None or self._writer is None:
                self._connection = duckdb.connect(str(self._path or ":memory:"), config=OPTIONS)
                if self._path is not None:
                    self._path.chmod(0o600)
                self._writer = self._connection.cursor()
            return self._writer

    def _another(self) -> duckdb.DuckDBPyConnection:
        """A connection serves one thread at a time, and is made in no time."""
        self._open()
        with self._opening:
            if self._connection is None:
                raise duckdb.ConnectionException("the database was closed")
            return self._connection.cursor()

    def prepare(self, schema: Sequence[ExecutableDDLElement]) -> None:
        with self._translated():
            for statement in schema:
                self._open().execute(str(statement.compile(dialect=DIALECT)))

    @contextmanager
    def transaction(self) -> Iterator[Work]:
        with self._translated():
            connection = self._open()
            connection.execute("BEGIN TRANSACTION")
            try:
                yield DuckWork(connection)
                connection.execute("COMMIT")
            except BaseException:
                self._undo(connection)
                raise

    @contextmanager
    def reading(self) -> Iterator[Work]:
        with self._translated():
            connection = self._another()
            connection.execute("BEGIN TRANSACTION READ ONLY")
            try:
                yield DuckWork(connection)
            finally:
                self._undo(connection)
                connection.close()

    def alone(self, work: Work) -> bool:
        return True

    def bytes(self, work: Work) -> int:
        if self._path is None:
            return 0
        [(taken,)] = work.rows(text("SELECT block_size * used_blocks FROM pragma_database_size()"))
        return int(taken) + _size(self._path.with_name(self._path.name + ".wal"))

    def close(self) -> None:
        with self._opening:
            for connection in (self._writer, self._connection):
                if connection is not None:
                    connection.close()
            self._connection = self._writer = None

    def _undo(self, connection: duckdb.DuckDBPyConnection) -> None:
        try:
            connection.execute("ROLLBACK")
        except duckdb.TransactionException:
            pass  # a commit that failed has ended it already
        except duckdb.Error:
            self.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn DuckDB's errors into StoreFullError and StateError that name the file."""
        try:
            yield
        except duckdb.Error as error:
            what = str(error).splitlines()[0]
            if isinstance(error, duckdb.FatalException) or "has been invalidated" in what:
                self.close()
            if NO_SPACE.search(str(error)):
                raise StoreFullError(
                    f"{self._path}: the disk of the flow store is full or failing ({what}); nothing was stored; free "
                    "some space there and try again"
                ) from error
            if isinstance(error, duckdb.IOException) and "lock" in what:
                raise StateError(f"{self._path}: another process has it open ({what}); stop that one") from error
            raise StateError(
                f"{self._path}: the flow store cannot be used ({what}); where that stays so, stop the controller and "
                f"move the file and its .wal away: flows are history, and the rest of the controller does without them"
            ) from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
