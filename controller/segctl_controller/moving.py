"""A fleet from one database to another: to PostgreSQL and back, into a backup and out of one."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from segctl.errors import StateError

from segctl_controller.clock import Clock
from segctl_controller.config import CONFIG_FILE, DATABASE_FILE, Config, config_text, load_config
from segctl_controller.database import open_store, where_is
from segctl_controller.lock import alone
from segctl_controller.setup import SHELL
from segctl_controller.store import audit
from segctl_controller.store.conninfo import Conninfo, parse_conninfo
from segctl_controller.store.copying import copy_rows, new_file
from segctl_controller.store.migrate import upgrade
from segctl_controller.store.records import Entry
from segctl_controller.store.sqlite import Sqlite


def export(where: Conninfo, copy: Path, entry: Entry) -> None:
    """The whole of a PostgreSQL database, as it was at one moment, into the new SQLite file `copy`; with `entry`, which
    stays in the audit log. Controllers may write meanwhile. Raises StateError."""
    from segctl_controller.store.postgres import Postgres  # the driver is an extra

    with closing(Postgres(where)) as database:
        schema = database.schema()
        if not schema:
            raise StateError(f"{database.name}: has no tables of a controller, so there is nothing to back up")
        with database.translated(), database.writer.begin() as connection:
            (audit.append if schema >= audit.CHAINED else audit.append_unchained)(connection, entry)
        with database.snapshot() as source, new_file(copy, schema) as target:
            copy_rows(source, target)


def fill(where: Conninfo, copy: Path, replace_: bool, clock: Clock) -> None:
    """The rows of an SQLite file into a PostgreSQL database, whole or not at all. A fleet that is there is moved aside
    with `replace_`, into a schema replaced_TIME. Raises StateError, also while a controller uses the database."""
    from segctl_controller.store.postgres import Postgres

    with (
        closing(Sqlite(copy)) as file,
        closing(Postgres(where)) as database,
        file.translated(),
        file.writer.begin() as source,
        database.alone() as target,
    ):
        if database.occupied(target):
            if not replace_:
                raise StateError(
                    f"{database.name}: holds a fleet already; name an empty database, or let restore --replace move "
                    "those tables aside, into a schema replaced_*"
                )
            database.move_aside(target, clock.now())
        upgrade(target, database.name)
        copy_rows(source, target)


def move(directory: Path, database: str, clock: Clock) -> str:
    """From the database that controller.json names to another, which has to be empty: see Config. The controller must
    not run. Returns where the fleet is now kept aside. Raises StateError: nothing was moved then."""
    with alone(directory):
        config = load_config(directory)
        if bool(config.database) == bool(database):
            raise StateError("a fleet is moved from SQLite to PostgreSQL, or back; see segctl-controller move --help")
        was = where_is(directory)
        entry = Entry(clock.now_us(), SHELL, "move", "database", "to PostgreSQL" if database else "to SQLite")
        try:
            if was is not None:
                return _bring_back(was, directory, replace(config, database=""), entry, clock)
            with closing(open_store(directory)) as store:
                store.add_entry(entry)
            fill(parse_conninfo(database, directory), directory / DATABASE_FILE, False, clock)
            _put(directory, CONFIG_FILE, config_text(replace(config, database=database)))
            return str(_aside(directory, clock))
        except OSError as error:
            raise StateError(f"{directory}: cannot be written: {error.strerror}; run it again") from error


def _bring_back(where: Conninfo, directory: Path, config: Config, entry: Entry, clock: Clock) -> str:
    """The tables are moved aside last: were it first, whoever is interrupted would have a fleet in neither."""
    from segctl_controller.store.postgres import Postgres

    path, fresh = directory / DATABASE_FILE, directory / f"{DATABASE_FILE}.new"
    if path.exists():
        raise StateError(f"{path}: is there already; move it away first")
    fresh.unlink(missing_ok=True)
    with closing(Postgres(where).checked()) as database, database.alone() as source:
        audit.append(source, entry)
        with new_file(fresh) as target:
            copy_rows(source, target)
        _settle(fresh, path)
        _put(directory, CONFIG_FILE, config_text(config))
        return f"{database.name}, schema {database.move_aside(source, clock.now())}"


def _put(directory: Path, name: str, text: str) -> None:
    fresh = directory / f"{name}.new"
    fresh.write_text(text, encoding="utf-8")
    _settle(fresh, directory / name)


def _settle(fresh: Path, path: Path) -> None:
    """In its place for good, and of whom the directory is: root may move, and the controller's user runs it."""
    owner = path.parent.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.chown(fresh, owner.st_uid, owner.st_gid)
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    fresh.rename(path)


def _aside(directory: Path, clock: Clock) -> Path:
    aside = directory / f"replaced-{clock.now():%Y%m%dT%H%M%S}"
    aside.mkdir(mode=0o700)
    for suffix in ("", "-wal", "-shm"):
        path = directory / f"{DATABASE_FILE}{suffix}"
        if path.exists():
            path.rename(aside / path.name)
    return aside
