"""Brings a database to the schema of this code, and refuses one that newer code wrote."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from segctl.errors import StateError
from sqlalchemy import Connection

VERSION = "alembic_version"
"""The table that says which schema a database has."""


def newest() -> str:
    """The schema of this code."""
    return max(_known(_config()))


def current(connection: Connection, name: str) -> str:
    """The schema of the database that is called `name`; empty when it has none. Raises StateError for a newer one."""
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in _known(_config()):
        raise StateError(
            f"{name}: a newer segctl-controller wrote this database (schema {found}, this one knows up to "
            f"{newest()}); install that version or newer, or restore a backup made by this one"
        )
    return found or ""


def upgrade(connection: Connection, name: str, to: str = "head") -> None:
    """Run the missing migrations inside the caller's transaction. Raises StateError, see `current`."""
    current(connection, name)
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, to)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _known(config: Config) -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
