"""SQLite: pragmas, explicit transactions, migration, and errors with a mend."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from segctl.errors import StateError
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DatabaseError, DBAPIError
from sqlalchemy.pool import QueuePool

from segctl_controller.errors import StoreFullError
from segctl_controller.store.leadership import Alone
from segctl_controller.store.migrate import current, upgrade
from segctl_controller.store.sqlite_notices import SqliteNotices
from segctl_controller.store.transactions import Transactions

PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000")
BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


class Sqlite:
    """Implements segctl_controller.store.database.Database, in a file."""

    def __init__(self, path: Path) -> None:
        """Raises StateError, see open_engine."""
        self._path = path
        self.writer = open_engine(path)
        self.reader = open_reader(path)

    def translated(self) -> AbstractContextManager[None]:
        return translated(self._path)

    def is_open(self, connection: Connection) -> bool:
        """SQLite rolls all of it back when a write fails for the disk
        (https://sqlite.org/lang_transaction.html#response_to_errors_within_a_transaction)."""
        driver = connection.connection.driver_connection
        return isinstance(driver, sqlite3.Connection) and driver.in_transaction

    def write(self, connection: Connection) -> None:
        """The cookie that SQLite leaves to applications: to set it writes a page, whatever it was."""
        cookie = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        connection.exec_driver_sql(f"PRAGMA user_version = {int(cookie)}")

    def wake(self, connection: Connection, origin: str) -> None:
        """Others look by themselves."""

    def notices(self, origin: str) -> SqliteNotices:
        return SqliteNotices(self._path, origin)

    def leadership(self) -> Alone:
        return Alone()

    def shared(self, transactions: Transactions) -> None:
        """A state directory has one controller."""

    def close(self) -> None:
        self.reader.dispose()
        self.writer.dispose()


def open_engine(path: Path) -> Engine:
    """Open or create the database at `path`, check it and bring it to this code's schema.

    Raises StateError for a file that is no database, is damaged, is newer than this code or cannot be written.
    """
    with translated(path):
        engine = create_file(path)
        with engine.begin() as connection:
            problem = connection.execute(text("PRAGMA quick_check(1)")).scalar_one()
            if problem != "ok":
                raise StateError(_damaged(path, str(problem)))
            upgrade(connection, str(path))
    return engine


def create_file(path: Path) -> Engine:
    """Whatever is in it. Raises StateError for a path that cannot be written."""
    engine = create_engine(f"sqlite:///{path}", poolclass=QueuePool, pool_size=1, max_overflow=0)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    os.close(_open_private(path))
    return engine


def schema_of(path: Path) -> str:
    """As it lies there; empty when it has none. Raises StateError for a file that is no database, or is newer."""
    engine = open_reader(path)
    try:
        with translated(path), engine.begin() as connection:
            return current(connection, str(path))
    finally:
        engine.dispose()


def open_reader(path: Path) -> Engine:
    """A second connection to a database that is open already, which can only read. In WAL mode it sees the state at its
    first question and holds up no writer (https://sqlite.org/wal.html)."""
    engine = create_engine(f"sqlite:///{path}", poolclass=QueuePool, pool_size=1, max_overflow=0)
    event.listen(engine, "connect", _prepare_reader)
    event.listen(engine, "begin", _begin_reading)
    return engine


def _open_private(path: Path) -> int:
    """Whoever creates the file decides its mode: others must not read the tokens' hashes or the audit log."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StateError(f"{path}: cannot be opened: {error.strerror}; check the owner of its directory") from error


def _prepare(connection: Any, _record: object) -> None:  # noqa: ANN401  a DBAPI connection has no common type
    # The driver must not open transactions of its own: DDL would then run outside of them.
    connection.isolation_level = None
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _prepare_reader(connection: Any, _record: object) -> None:  # noqa: ANN401  as above
    connection.isolation_level = None
    connection.execute("PRAGMA busy_timeout=5000")
    connection.execute("PRAGMA query_only=ON")


def _begin_reading(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN DEFERRED")


def _begin(connection: Connection) -> None:
    # IMMEDIATE: a transaction that starts reading and then writes could otherwise fail half way as busy.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _damaged(path: Path, detail: str) -> str:
    return (
        f"{path}: the database is damaged ({detail}); stop the controller and restore the last backup: "
        f"segctl-controller restore --from BACKUP --state {path.parent} --replace (the damaged file is kept aside); "
        "without one, recover with: sqlite3 controller.db .recover | sqlite3 new.db"
    )


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn driver errors into StoreFullError and StateError that name the file."""
    try:
        yield
    except DBAPIError as error:
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        if code in FULL:
            raise StoreFullError(
                f"{path}: the disk of the controller's database is full or failing ({error.orig}); nothing was "
                "stored; free some space there and try again"
            ) from error
        if code in BROKEN or (code == 0 and isinstance(error, DatabaseError) and "malformed" in str(error.orig)):
            raise StateError(_damaged(path, str(error.orig))) from error
        if code == sqlite3.SQLITE_CONSTRAINT:
            raise
        raise StateError(f"{path}: the database refused ({error.orig}); see the controller's log") from error
    except UnicodeDecodeError as error:
        # sqlite3 quotes the damaged schema in its message, and fails to decode that.
        raise StateError(_damaged(path, "its schema cannot be read")) from error
