"""A real PostgreSQL server of Debian's packages, for a test session; a database of its own for each test."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import psycopg
import pytest
from segctl_controller.store.conninfo import Conninfo, parse_conninfo
from segctl_controller.store.postgres import Postgres

SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "16MB",
    "max_wal_size": "64MB",
    "max_connections": "40",
    "autovacuum": "off",
    "jit": "off",
    "max_parallel_workers": "0",
}
TEMPLATE = "segctl_template"
GUARDED = "guarded"
"""The one user that needs a password."""
EMPTY = """
SET session_replication_role = replica;  -- without triggers: the audit log could not be emptied otherwise
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
    EXECUTE format('DELETE FROM %I', name);
  END LOOP;
END $$
"""


def programs() -> Path:
    """Of the newest server that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    assert found, "PostgreSQL's server is not installed: apt-get install postgresql (tools/setup.sh does it)"
    return found[-1].parent


class Server:
    """`run` is for what a test does to it: stop it, or freeze it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.programs = programs()
        self.data = directory / "data"
        self.free: list[str] = []
        self._numbers = itertools.count()
        # It refuses to run as root.
        self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
        self.run(
            "initdb",
            "-D",
            str(self.data),
            "-A",
            "trust",
            "-U",
            "segctl",
            "-E",
            "UTF8",
            "--locale=en_US.UTF-8" if _has_english() else "--locale=C.UTF-8",
            "--no-sync",
            "--no-instructions",
        )
        rules = self.data / "pg_hba.conf"
        rules.write_text(f"local all {GUARDED} scram-sha-256\n{rules.read_text()}")
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())
            file.write(f"unix_socket_directories = '{directory}'\n")

    def run(self, program: str, *arguments: str) -> None:
        command = [*self._as, str(self.programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd="/")
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def start(self) -> None:
        self.run("pg_ctl", "-D", str(self.data), "-l", str(self.directory / "log"), "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        self.run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "stop")

    def execute(self, statement: str, database: str = "postgres") -> None:
        with psycopg.connect(host=str(self.directory), user="segctl", dbname=database, autocommit=True) as connection:
            connection.execute(statement.encode())

    def database(self, template: str = TEMPLATE) -> str:
        """A new one: a tenth of a second."""
        name = f"t{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def conninfo(self, database: str) -> str:
        """As `database` of controller.json has it."""
        return f"host={self.directory} user=segctl dbname={database}"


def _has_english() -> bool:
    return "en_US.utf8" in subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    # A socket's path has 107 bytes at most, and pytest's folders are closed to postgres.
    directory = Path(mkdtemp(prefix="segctl-pg."))
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(directory, owner.pw_uid, owner.pw_gid)
    server = Server(directory)
    server.start()
    try:
        server.execute(f"CREATE DATABASE {TEMPLATE}")
        template = Postgres(parse_conninfo(server.conninfo(TEMPLATE), directory))
        template.migrate()
        template.close()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


@pytest.fixture
def postgres(postgres_server: Server, tmp_path: Path) -> Iterator[Conninfo]:
    """A database with this code's schema and nothing in it; the next test gets the same one, emptied."""
    name = postgres_server.free.pop() if postgres_server.free else postgres_server.database()
    yield parse_conninfo(postgres_server.conninfo(name), tmp_path)
    postgres_server.execute(EMPTY, name)
    postgres_server.free.append(name)
