"""PostgreSQL: sessions, one writer at a time, and errors with a mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from segctl.errors import StateError
from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.pool import QueuePool
from sqlalchemy.schema import CreateSchema

from segctl_controller.errors import StoreFullError
from segctl_controller.store.conninfo import Conninfo
from segctl_controller.store.leadership import Leadership
from segctl_controller.store.migrate import VERSION, current, newest, upgrade
from segctl_controller.store.notices import Notices
from segctl_controller.store.shared import SharedStore
from segctl_controller.store.tables import metadata
from segctl_controller.store.transactions import Transactions

OLDEST = 14
LOCKS = 0x73656763
"""The first half of all our advisory locks, "segc"; the second is one of these."""
WRITER, SERVING, LEADER = 1, 2, 3
CHANNEL = "segctl"
SESSION = """
SET lock_timeout = '15s';
SET statement_timeout = '60s';
SET idle_in_transaction_session_timeout = '5s';
"""
"""A controller that hangs within a transaction loses it, and the lock, before others have waited in vain for it."""
ALONE = """
SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = 0;
"""
"""Of what takes long. Sessions that were just closed end within the second."""
LOCK_NOT_AVAILABLE = "55P03"
REFUSALS = (
    ("53100", "its disk is full; nothing was stored; free some space there and try again"),
    ("25006", "it is a standby; name all servers, and add target_session_attrs=read-write"),
    (
        LOCK_NOT_AVAILABLE,
        "another controller held its lock for too long; nothing was stored; look at pg_stat_activity there",
    ),
    ("42501", "its user may not do this; make it the owner: ALTER DATABASE ... OWNER TO ..."),
    ("40", "the transaction met another one; nothing was stored; try again"),
    ("57014", "it took too long and was given up; nothing was stored; try again"),
    ("25P03", "the controller was held up within a transaction; nothing was stored; try again"),
    ("XX00", "it is damaged; stop all controllers and restore the last backup: segctl-controller restore"),
)
"""By the beginning of the SQLSTATE, the first that fits
(https://www.postgresql.org/docs/current/errcodes-appendix.html)."""
LOST = "the connection was lost; what was under way may be stored or not; the next call connects anew"
UNREACHABLE = "check its server, the user, pg_hba.conf there and the password (a line of pgpass in the state directory)"


class Postgres:
    """Implements segctl_controller.store.database.Database. Transactions of `writer` take an advisory lock first, so
    that, as in SQLite, there is one at a time, in all controllers; each statement sees what was committed before it."""

    def __init__(self, where: Conninfo) -> None:
        """Connects and looks at the server, not at what is in the database. Raises StateError."""
        self.name = where.name
        self._where = where
        self.writer = self._engine()
        self.reader = self._engine()
        event.listen(self.writer, "connect", self._attach)
        event.listen(self.writer, "begin", _lock)
        event.listen(self.reader, "connect", _only_read)
        try:
            with self.translated(), self.writer.begin() as connection:
                self._check(connection)
        except StateError:
            self.close()
            raise

    def _engine(self) -> Engine:
        return create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=0,
            pool_pre_ping=True,
        )

    def _connect(self) -> psycopg.Connection[Any]:
        try:
            return psycopg.connect(**self._where.parameters)  # type: ignore[arg-type]
        except psycopg.Error as error:
            said = " ".join(str(error).split())
            raise StateError(f"{self.name}: cannot be used: {said}; {UNREACHABLE}") from error

    def _attach(self, driver: psycopg.Connection[Any], _record: object) -> None:
        """Each session is known to serve, so that nobody migrates or restores under it."""
        driver.execute(SESSION)
        row = driver.execute("SELECT pg_try_advisory_lock_shared(%s, %s)", (LOCKS, SERVING)).fetchone()
        driver.commit()
        if row != (True,):
            raise StateError(f"{self.name}: it is being migrated or restored; start the controller when that is done")

    def _check(self, connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        if driver.info.server_version < OLDEST * 10_000:
            raise StateError(f"{self.name}: its server is older than PostgreSQL {OLDEST}; use a newer one")
        encoding = driver.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise StateError(
                f"{self.name}: its encoding is {encoding}; make one with: createdb --encoding UTF8 --template template0"
            )

    def schema(self) -> str:
        """Empty when there is none of ours. Raises StateError for one that is newer than this code."""
        with self.translated(), self.writer.begin() as connection:
            return current(connection, self.name)

    def checked(self) -> Postgres:
        """Itself. Raises StateError unless it has this code's schema."""
        found = self.schema()
        if found != newest():
            mend = (
                "segctl-controller migrate brings it up, while no controller runs"
                if found
                else "segctl-controller restore puts a backup there, segctl-controller init makes a new fleet"
            )
            raise StateError(f"{self.name}: its schema is {found or 'missing'}, this version needs {newest()}; {mend}")
        return self

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """A transaction while no controller serves from this database. Raises StateError when one does."""
        with self.translated(), self.writer.begin() as connection:
            connection.exec_driver_sql(ALONE)
            try:
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS, SERVING))
            except OperationalError as error:
                if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                    raise
                raise StateError(
                    f"{self.name}: controllers use it; stop all of them first (systemctl stop segctl-controller)"
                ) from error
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A transaction that only reads, and sees all of it as it was when it began, whoever writes meanwhile."""
        with self.translated(), self.reader.connect() as connection:
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    def migrate(self) -> None:
        """Raises StateError while a controller serves."""
        with self.alone() as connection:
            upgrade(connection, self.name)

    def occupied(self, connection: Connection) -> bool:
        return inspect(connection).has_table(VERSION)

    def move_aside(self, connection: Connection, now: datetime) -> str:
        """Our tables, with what belongs to them, into the new schema whose name is returned."""
        schema = f"replaced_{now:%Y%m%dt%H%M%S}"
        connection.execute(CreateSchema(schema))
        for name in sorted({VERSION, *metadata.tables} & set(inspect(connection).get_table_names())):
            connection.exec_driver_sql(f"ALTER TABLE {name} SET SCHEMA {schema}")
        connection.exec_driver_sql(f"ALTER FUNCTION audit_no_change() SET SCHEMA {schema}")
        return schema

    @contextmanager
    def translated(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise _explained(self.name, error) from error

    def is_open(self, connection: Connection) -> bool:
        if connection.invalidated:
            return False
        driver = connection.connection.driver_connection
        open_states = (TransactionStatus.INTRANS, TransactionStatus.INERROR)
        return isinstance(driver, psycopg.Connection) and driver.info.transaction_status in open_states

    def write(self, connection: Connection) -> None:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = version_num")

    def wake(self, connection: Connection, origin: str) -> None:
        connection.exec_driver_sql("SELECT pg_notify(%s, %s)", (CHANNEL, origin))

    def notices(self, origin: str) -> Notices:
        from segctl_controller.store.postgres_sessions import PostgresNotices

        return PostgresNotices(self._where, origin)

    def leadership(self) -> Leadership:
        from segctl_controller.store.postgres_sessions import PostgresLeadership

        return PostgresLeadership(self._where)

    def shared(self, transactions: Transactions) -> SharedStore:
        from segctl_controller.store.postgres_shared import PostgresShared

        return PostgresShared(transactions, self._reading, self._where)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self.translated(), self.reader.begin() as connection:
            yield connection

    def close(self) -> None:
        self.reader.dispose()
        self.writer.dispose()


def _lock(connection: Connection) -> None:
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS, WRITER))


def _only_read(driver: psycopg.Connection[Any], _record: object) -> None:
    driver.execute(SESSION)
    driver.execute("SET default_transaction_read_only = on")
    driver.commit()


def _explained(name: str, error: DBAPIError) -> StateError:
    state = getattr(error.orig, "sqlstate", None) or ""
    said = " ".join(str(error.orig).split())
    if error.connection_invalidated and not state.startswith("25P03"):
        return StateError(f"{name}: {LOST} ({said})")
    why = next((why for beginning, why in REFUSALS if state.startswith(beginning)), "the database refused")
    return (StoreFullError if state == "53100" else StateError)(f"{name}: {why} ({said})")
