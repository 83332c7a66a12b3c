"""A real PostgreSQL server of Debian's packages, for tests and measurements."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import psycopg

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


@contextmanager
def running_server() -> Iterator[Server]:
    """It listens on a socket alone, and everything of it is gone in the end."""
    # A socket's path has 107 bytes at most, and pytest's folders are closed to postgres.
    directory = Path(mkdtemp(prefix="segctl-pg."))
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(directory, owner.pw_uid, owner.pw_gid)
    server = Server(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)
