"""A real PostgreSQL server of Debian's packages, for a test session; a database of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from segctl_controller.store.conninfo import Conninfo, parse_conninfo
from segctl_controller.store.postgres import Postgres

from lab.postgres import GUARDED, TEMPLATE, Server, running_server

__all__ = ["GUARDED", "Server", "postgres", "postgres_server"]

EMPTY = """
SET session_replication_role = replica;  -- without triggers: the audit log could not be emptied otherwise
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
    EXECUTE format('DELETE FROM %I', name);
  END LOOP;
END $$
"""


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    with running_server() as server:
        server.execute(f"CREATE DATABASE {TEMPLATE}")
        template = Postgres(parse_conninfo(server.conninfo(TEMPLATE), server.directory))
        template.migrate()
        template.close()
        yield server


@pytest.fixture
def postgres(postgres_server: Server, tmp_path: Path) -> Iterator[Conninfo]:
    """A database with this code's schema and nothing in it; the next test gets the same one, emptied."""
    name = postgres_server.free.pop() if postgres_server.free else postgres_server.database()
    yield parse_conninfo(postgres_server.conninfo(name), tmp_path)
    postgres_server.execute(EMPTY, name)
    postgres_server.free.append(name)
