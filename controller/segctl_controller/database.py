"""Which database a controller's state directory has: how it is opened, made and brought to this version's schema."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from segctl.errors import StateError

from segctl_controller.config import CONFIG_FILE, DATABASE_FILE, load_config
from segctl_controller.lock import alone
from segctl_controller.store.conninfo import Conninfo, parse_conninfo
from segctl_controller.store.migrate import newest
from segctl_controller.store.sql import SqlStore
from segctl_controller.store.sqlite import FULL, schema_of


def where_is(directory: Path) -> Conninfo | None:
    """None: in an SQLite file, as it is where no configuration says otherwise. Raises StateError."""
    text = load_config(directory).database if (directory / CONFIG_FILE).exists() else ""
    return parse_conninfo(text, directory) if text else None


def open_store(directory: Path) -> SqlStore:
    """Raises StateError for a database that is missing, damaged, or none of ours: no new one takes its place."""
    where = where_is(directory)
    if where is not None:
        return _open_postgres(where)
    path = _existing_file(directory)
    mend = _restore(directory)
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5.0)) as connection:
            connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        # sqlite3 quotes a damaged schema in its message, and may fail to decode that. A full disk is for the store to
        # tell: nobody should restore a backup for it.
        why = error if isinstance(error, sqlite3.Error) else "its schema cannot be read"
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in FULL:
            raise StateError(f"{path}: the database is damaged ({why}); keep a copy of the file, and {mend}") from error
    return SqlStore(path)


def _open_postgres(where: Conninfo) -> SqlStore:
    from segctl_controller.store.postgres import Postgres  # the driver is an extra

    database = Postgres(where)
    try:
        return SqlStore(database.checked())
    except StateError:
        database.close()
        raise


def create_database(directory: Path, text: str) -> None:
    """The tables, in the database that `text` names, or in a new file. Raises StateError, also when it has them."""
    if not text:
        SqlStore(directory / DATABASE_FILE).close()
        return
    where = parse_conninfo(text, directory)
    from segctl_controller.store.postgres import Postgres

    with closing(Postgres(where)) as database:
        if database.schema():
            raise StateError(f"{database.name}: holds a fleet already, and init never overwrites one; make another")
        database.migrate()


@dataclass(frozen=True, slots=True)
class Schemas:
    """The database's own, and the one that this version needs. They sort by age."""

    name: str
    found: str
    needed: str

    @property
    def current(self) -> bool:
        return self.found == self.needed


def look_schemas(directory: Path) -> Schemas:
    """Changes nothing. Raises StateError, also for a database that a newer version wrote."""
    where = where_is(directory)
    if where is None:
        path = _existing_file(directory)
        return Schemas(str(path), schema_of(path), newest())
    from segctl_controller.store.postgres import Postgres

    with closing(Postgres(where)) as database:
        return Schemas(database.name, database.schema(), newest())


def migrate(directory: Path) -> Schemas:
    """What it was before. Raises StateError while a controller runs, and where there is no fleet."""
    with alone(directory):
        before = look_schemas(directory)
        if not before.found:
            raise StateError(f"{before.name}: has no tables of a controller; {_restore(directory)}")
        where = where_is(directory)
        if where is None:
            open_store(directory).close()
        elif not before.current:
            from segctl_controller.store.postgres import Postgres

            with closing(Postgres(where)) as database:
                database.migrate()
    return before


def _existing_file(directory: Path) -> Path:
    path = directory / DATABASE_FILE
    if not path.exists():
        raise StateError(f"{path}: missing; {_restore(directory)}")
    return path


def _restore(directory: Path) -> str:
    return f"restore a backup: segctl-controller restore --from BACKUP --state {directory} --replace"
