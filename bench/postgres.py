"""A PostgreSQL server for a measurement, from Debian's packages, on the disk that DuckDB has its file on."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import mkdtemp

from segctl_controller.store.conninfo import Conninfo, parse_conninfo

SETTINGS = "-c listen_addresses= -c shared_buffers=1GB -c work_mem=64MB -c max_wal_size=4GB"
"""As for a small machine of its own; commits are durable, as they are by default."""


@contextmanager
def running_server() -> Iterator[Callable[[], Conninfo]]:
    """Gives a function that makes a database and answers how to connect to it. Raises FileNotFoundError where no server
    is installed."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not programs:
        raise FileNotFoundError("apt-get install postgresql")
    directory = Path(mkdtemp(prefix="segctl-pg."))
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(directory, owner.pw_uid, owner.pw_gid)
    numbers, data = count(1), str(directory / "data")

    def run(program: str, *arguments: str) -> None:
        become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
        command = [*become, str(programs[-1] / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd="/")

    def connect() -> Conninfo:
        name = f"bench{next(numbers)}"
        run("createdb", "-h", str(directory), "-U", "postgres", name)
        return parse_conninfo(f"host={directory} user=postgres dbname={name}", directory)

    try:
        run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")
        run("pg_ctl", "-D", data, "-w", "-o", f"-k {directory} {SETTINGS}", "-l", f"{data}/log", "start")
        try:
            yield connect
        finally:
            run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(directory)
