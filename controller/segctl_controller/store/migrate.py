"""Brings a database to the schema of this code, and refuses one that newer code wrote."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from segctl.errors import StateError
from sqlalchemy import Connection


def upgrade(connection: Connection, path: Path) -> None:
    """Run the missing migrations inside the caller's transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known:
        raise StateError(
            f"{path}: a newer segctl-controller wrote this database (schema {current}, this one knows up to "
            f"{max(known)}); install that version or newer, or restore a backup made by this one"
        )
    command.upgrade(config, "head")
