"""Databases as earlier versions of the schema left them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def without_access(path: Path) -> None:
    """Before 0007: no chain in the audit log, no scopes, no API tokens, no groups; and nothing that came later."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for column in ("identity", "peer", "previous", "hash"):
            connection.execute(f"ALTER TABLE audit DROP COLUMN {column}")
        connection.execute("ALTER TABLE operators DROP COLUMN scope")
        for table in (
            "api_tokens",
            "group_roles",
            "fleet",
            "replicas",
            "presence",
            "trials",
            "suggestion_decisions",
            "web_sessions",
            "questions",
        ):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("UPDATE alembic_version SET version_num = '0005'")
