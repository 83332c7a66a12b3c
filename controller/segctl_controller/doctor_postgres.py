"""`segctl-controller doctor` on PostgreSQL: looks at the database of a controller, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from segctl.doctor import Finding, ok, problem, warning

from segctl_controller.store.conninfo import Conninfo
from segctl_controller.store.migrate import newest

CHECK = "database"
LOOK = """
SELECT current_setting('server_version_num')::int / 10000,
  pg_is_in_recovery(),
  pg_database_size(current_database()),
  coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false),
  current_setting('max_connections')::int - (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL),
  to_regclass('alembic_version') IS NOT NULL,
  (SELECT bool_and(pg_has_role(c.relowner, 'USAGE')) FROM pg_class c
    WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace)
    AND has_schema_privilege(current_schema(), 'CREATE')
"""
FEW = 10


@dataclass(frozen=True, slots=True)
class Look:
    """`size` in bytes; `free` connections; `owner`: of the tables, who can also make others. `schema` is empty without
    tables of ours."""

    version: int
    standby: bool
    size: int
    encrypted: bool
    free: int
    owner: bool
    schema: str


def look_postgres(where: Conninfo) -> Iterator[Finding]:
    import psycopg  # the driver is an extra; who has `where` has it

    try:
        with closing(psycopg.connect(**where.parameters, autocommit=True)) as connection:  # type: ignore[arg-type]
            connection.execute("SET default_transaction_read_only = on; SET statement_timeout = '3s'")
            row = connection.execute(LOOK).fetchone() or ()
            version, standby, size, encrypted, free, there, owner = row
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone() if there else None
    except psycopg.Error as error:
        said = " ".join(str(error).split())
        yield problem(
            CHECK, f"{where.name}: {said}", "pg_isready there; its journal; pg_hba.conf; pgpass in the state folder"
        )
        return
    look = Look(version, standby, size, encrypted, free, bool(owner), found[0] if found else "")
    yield from judge_postgres(where, look, newest())


def judge_postgres(where: Conninfo, look: Look, needed: str) -> Iterator[Finding]:
    from segctl_controller.store.postgres import OLDEST

    if look.version < OLDEST:
        yield problem(CHECK, f"{where.name}: PostgreSQL {look.version} is older than {OLDEST}", "use a newer server")
    if look.standby:
        yield problem(CHECK, f"{where.name} is a standby, which takes no writes", "name the primary in controller.json")
    if not look.schema:
        then = "segctl-controller restore --from BACKUP, or init for a new fleet"
        yield problem(CHECK, f"{where.name} has no tables of a controller", then)
    elif look.schema != needed:
        text = f"{where.name} has schema {look.schema}, this version needs {needed}"
        then = "segctl-controller migrate" if look.schema < needed else "install the version that wrote it"
        yield problem(CHECK, text, then)
    elif not look.owner:
        text = f"{where.name}: the user does not own all of the tables"
        yield problem(CHECK, text, "ALTER TABLE ... OWNER TO the user of controller.json, and the schema's")
    else:
        yield ok(CHECK, f"{where.name} answers, {look.size / 1e6:.1f} MB, schema {look.schema}")
    if look.free < FEW:
        text = f"{where.name} has {look.free} connections left, and a controller needs five"
        yield warning(CHECK, text, "raise max_connections there")
    if where.remote and not (look.encrypted and where.verified):
        text = f"{where.name}: whoever is between could read and change the whole policy"
        yield warning(CHECK, text, "sslmode=verify-full and sslrootcert=FILE in `database` of controller.json")
