"""Where a controller's database is: made, moved, backed up, restored and looked at, as commands."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result
from segctl.doctor import Level
from segctl.errors import StateError
from segctl.model.policy import Tags
from segctl.policy.source import SourceFile
from segctl_controller.doctor_postgres import Look, judge_postgres, look_postgres
from segctl_controller.main import main
from segctl_controller.setup import open_store
from segctl_controller.store.conninfo import PASSFILE, Conninfo, parse_conninfo
from segctl_controller.store.copying import new_file
from segctl_controller.store.migrate import newest, upgrade
from segctl_controller.store.postgres import Postgres
from segctl_controller.store.records import (
    Batch,
    DenialFilter,
    DenialRecord,
    Entry,
    EventRecord,
    GenerationRecord,
    HitRecord,
    HostRecord,
    ProofRecord,
    TokenRecord,
)
from segctl_controller.store.sql import SqlStore

from tests.postgres import Server
from tests.unit.segctl_controller.test_main import free_port, running, who_am_i

ENTRY = Entry(1, "root", "act", "subject")
DAY = 86_400_000_000
POLICY = SourceFile("a.yaml", b"version: 1\nmodes:\n  - {select: {}, mode: observe}\n")


@pytest.fixture
def empty(postgres_server: Server) -> Iterator[str]:
    """A database without tables, as `database` of controller.json names it."""
    yield postgres_server.conninfo(postgres_server.database("template1"))


def controller(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def done(*arguments: str | Path) -> Result:
    found = controller(*arguments)
    assert found.exit_code == 0, found.output
    return found


def init(base: Path, database: str = "") -> Path:
    listen = ("--listen", "127.0.0.1", "--name", "127.0.0.1", "--port", str(free_port()), "--enrol-port")
    where = ("--database", database) if database else ()
    done(
        "init",
        "--state",
        base / "state",
        *listen,
        str(free_port()),
        "--admin",
        "root",
        "--admin-out",
        base / "r",
        *where,
    )
    return base / "state"


def fill(store: SqlStore) -> None:
    """Something in every table, and text that PostgreSQL would not take as it is."""
    store.add_token(TokenRecord("t", b"secret", Tags.of({"app": "shop"}), "", 3, DAY, True, "root"), ENTRY)
    store.enrol(
        b"secret", 5, lambda token, _: HostRecord("web1", token.tags, "aa", 5, facts=b"\0\xff"), lambda _: ENTRY
    )
    store.add_generation(GenerationRecord("d" * 64, "root", "ü\n", 1, (POLICY,)), 0, ENTRY)
    store.add_proofs([ProofRecord("web1", 1, "d", "k", 1)])
    store.add_told("web1", "one", ENTRY)
    hits = tuple(HitRecord("web1", f"r{number}", False, number + 1, DAY) for number in range(5000))
    denial = DenialRecord("web1", "shop", "k", 1, 2, 3, b"\0body")
    event = EventRecord("web1", "tamper", "with a NUL: \0", 4)
    store.add_batch(Batch("web1", "e", 1, DAY, (denial,), (event,), 5, hits))


def content(store: SqlStore) -> tuple[object, ...]:
    """All of it but the newest audit entries, which tell of the move; without the NUL that PostgreSQL has not."""
    return (
        store.hosts(),
        store.tokens(0),
        store.operators(),
        store.generation(1),
        store.proofs("web1", 9),
        store.denials(DenialFilter()),
        [event.message.replace("\0", "\ufffd") for event in store.events(9)],
        store.rule_use(""),
        store.lost("", 0),
        [entry for entry in store.entries(99) if entry.action in ("act", "admin-add")],
    )


def test_a_fleet_moves_to_postgresql_and_back_and_nothing_is_lost(tmp_path: Path, empty: str) -> None:
    state = init(tmp_path)
    with closing(open_store(state)) as store:
        fill(store)
        before = content(store)
    done("move", "--to", empty, "--state", state)
    assert json.loads((state / "controller.json").read_text())["database"] == empty
    assert [p.name for p in state.glob("replaced-*/*")] == ["controller.db"]
    assert not (state / "controller.db").exists()
    with closing(open_store(state)) as store:
        assert content(store) == before
        assert store.entries(1)[0].action == "move"
        # Numbers go on after those that came along.
        assert store.add_generation(GenerationRecord("d", "root", "m", 1), 0, ENTRY).number == 2
        store.add_event(EventRecord("web1", "tamper", "new", 4))
        assert [e.message for e in store.events(1)] == ["new"]
        store.add_proofs([ProofRecord("web1", 2, "d", "k", 1)])
        assert controller("move", "--to", empty, "--state", state).exit_code == 1  # it is there already
        after = content(store)
        busy = controller("move", "--to", "sqlite", "--state", state)
        assert "controllers use it; stop all of them first" in busy.stderr
        assert not (state / "controller.db").exists()
    done("move", "--to", "sqlite", "--state", state)
    with closing(open_store(state)) as store:
        assert content(store) == after
        assert store.add_generation(GenerationRecord("d", "root", "m", 1), 0, ENTRY).number == 3
    with psycopg.connect(empty) as connection:
        assert connection.execute("SELECT to_regclass('public.hosts')").fetchone() == (None,)
        moved = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'replaced_%'").fetchall()
        assert len(moved) == 1
    done("move", "--to", empty, "--state", state)  # it is empty again


def test_a_controller_on_postgresql_serves_and_is_backed_up_and_restored(tmp_path: Path, empty: str) -> None:
    state, backup = init(tmp_path, empty), tmp_path / "backup"
    assert sorted(p.name for p in state.iterdir()) == ["ca.key", "ca.pem", "controller.json"]
    again = controller(
        *("init", "--state", tmp_path / "other", "--listen", "::1", "--name", "x", "--admin", "root"),
        *("--admin-out", tmp_path / "o", "--database", empty),
    )
    assert "holds a fleet already" in again.stderr
    with closing(open_store(state)) as store:
        fill(store)
        before = content(store)
    with running(tmp_path):
        done("admin", "add", "ann", "--role", "viewer", "--out", tmp_path / "ann", "--state", state)
        assert who_am_i(tmp_path / "ann").role == "viewer"
        done("admin", "remove", "ann", "--state", state)
        done("backup", "--to", backup, "--state", state)
        for arguments in (("migrate",), ("restore", "--from", str(backup), "--replace")):
            assert "a controller runs there" in controller(*arguments, "--state", state).stderr
        elsewhere = ("restore", "--from", backup, "--state", tmp_path / "elsewhere")
        assert "controllers use it; stop all of them" in controller(*elsewhere).stderr
        assert not list((tmp_path / "elsewhere").glob("*.json"))
    assert "holds a fleet already" in controller(*elsewhere).stderr
    done(*elsewhere, "--replace")
    done("restore", "--from", backup, "--state", tmp_path / "file", "--database", "sqlite")
    for directory in (tmp_path / "elsewhere", tmp_path / "file"):
        with closing(open_store(directory)) as store:
            found = content(store)
            assert found[0][0].restored_us > 0  # type: ignore[index]
            assert found[1] == ()
            assert found[3:-1] == before[3:-1]
            assert [e.action for e in store.entries(2)] == ["restore", "backup"]


def test_a_backup_of_a_schema_of_before_is_taken_as_it_is_and_migrate_brings_it_up(tmp_path: Path, empty: str) -> None:
    state, backup = init(tmp_path, empty), tmp_path / "backup"
    with psycopg.connect(empty) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    with closing(Postgres(parse_conninfo(empty, tmp_path))) as database, database.writer.begin() as connection:
        upgrade(connection, "test", "0003")
        connection.exec_driver_sql("INSERT INTO operators VALUES ('ann', 'viewer', 'aa', 5)")
    refused = controller("run", "--state", state)
    assert f"its schema is 0003, this version needs {newest()}; segctl-controller migrate" in refused.stderr
    done("backup", "--to", backup, "--state", state)
    checked = controller("migrate", "--check", "--state", state)
    assert (checked.exit_code, f"has schema 0003, this version needs {newest()}" in checked.stdout) == (3, True)
    assert f"schema 0003 -> {newest()}" in done("migrate", "--state", state).stdout
    assert "the one of this version" in done("migrate", "--state", state).stdout
    assert "the one of this version" in done("migrate", "--check", "--state", state).stdout
    done("restore", "--from", backup, "--state", state, "--replace")
    with closing(open_store(state)) as store:
        assert [o.name for o in store.operators()] == ["ann"]


def test_migrate_on_sqlite(tmp_path: Path) -> None:
    state = init(tmp_path)
    (state / "controller.db").unlink()
    with new_file(state / "controller.db", "0003"):
        pass
    assert controller("migrate", "--check", "--state", state).exit_code == 3
    assert f"schema 0003 -> {newest()}" in done("migrate", "--state", state).stdout
    with closing(sqlite3.connect(state / "controller.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for arguments in (("migrate", "--check"), ("migrate",)):
        refused = controller(*arguments, "--state", state)
        assert (refused.exit_code, "a newer segctl-controller wrote" in refused.stderr) == (1, True)


@pytest.mark.parametrize("text", ["postgresql://segctl:hunter2@db1/segctl", "host=db1 password=hunter2"])
def test_a_password_in_the_configuration_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(StateError, match=r"has no place there: write the line .*pgpass \(mode 0600") as refused:
        parse_conninfo(text, tmp_path)
    assert "hunter2" not in str(refused.value)


def test_what_is_no_conninfo_is_refused_and_not_repeated(tmp_path: Path) -> None:
    for text in ("hunter2", "host=db1 passwort=hunter2", "postgresql://db1/segctl?passwort=hunter2"):
        with pytest.raises(StateError, match="neither as a postgresql:// URL nor") as refused:
            parse_conninfo(text, tmp_path)
        assert "hunter2" not in str(refused.value)


def test_where_the_password_comes_from(tmp_path: Path) -> None:
    def found(text: str, **environment: str) -> tuple[str | None, str | None]:
        parameters = parse_conninfo(text, tmp_path, environment).parameters
        return parameters.get("passfile"), parameters.get("password")

    assert found("host=db1") == (None, None)
    own, other = tmp_path / PASSFILE, tmp_path / "other"
    for path in (own, other):
        path.write_text("*:*:*:*:hunter2\n")
        path.chmod(0o600)
    assert found("host=db1") == (str(own), None)
    assert found("host=db1", PGPASSFILE=str(other)) == (str(other), None)
    assert found(f"host=db1 passfile={other}", PGPASSFILE=str(own)) == (str(other), None)
    (tmp_path / "database-password").write_text("hunter3\n")
    assert found("host=db1", CREDENTIALS_DIRECTORY=str(tmp_path)) == (None, "hunter3")
    assert "hunter3" not in repr(parse_conninfo("host=db1", tmp_path, {"CREDENTIALS_DIRECTORY": str(tmp_path)}))
    own.chmod(0o640)
    with pytest.raises(StateError, match=f"{own}: is open to others"):
        found("host=db1")


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("host=db1.example.com", "verify-full"),
        ("postgresql://db1,localhost/segctl", "verify-full"),
        ("hostaddr=192.0.2.1", "verify-full"),
        ("host=db1 sslmode=require", "require"),
        ("host=127.0.0.1", None),
        ("host=/run/postgresql", None),
        ("dbname=segctl", None),
    ],
)
def test_a_server_in_the_network_has_to_prove_who_it_is(tmp_path: Path, text: str, mode: str | None) -> None:
    assert parse_conninfo(text, tmp_path, {}).parameters.get("sslmode") == mode


def test_the_environment_counts_as_it_does_for_libpq(tmp_path: Path) -> None:
    away = parse_conninfo("dbname=segctl", tmp_path, {"PGHOST": "db1"})
    assert (away.remote, away.verified) == (True, True)
    assert not parse_conninfo("host=localhost", tmp_path, {"PGHOST": "db1"}).remote
    assert "sslmode" not in parse_conninfo("host=db1", tmp_path, {"PGSSLMODE": "require"}).parameters


LOOK = Look(version=15, standby=False, size=10**7, encrypted=True, free=50, owner=True, schema="0007")
NEAR, FAR = Conninfo("PostgreSQL x", {}), Conninfo("PostgreSQL x", {"host": "db1", "sslmode": "verify-full"})


@pytest.mark.parametrize(
    ("where", "look", "level", "words"),
    [
        (NEAR, LOOK, Level.OK, "answers, 10.0 MB, schema 0007"),
        (FAR, LOOK, Level.OK, "answers"),
        (NEAR, replace(LOOK, version=13), Level.PROBLEM, "PostgreSQL 13 is older than 14"),
        (NEAR, replace(LOOK, standby=True), Level.PROBLEM, "a standby"),
        (NEAR, replace(LOOK, schema=""), Level.PROBLEM, "no tables of a controller"),
        (NEAR, replace(LOOK, schema="0006"), Level.PROBLEM, "has schema 0006, this version needs 0007"),
        (NEAR, replace(LOOK, schema="0008"), Level.PROBLEM, "has schema 0008, this version needs 0007"),
        (NEAR, replace(LOOK, owner=False), Level.PROBLEM, "does not own"),
        (NEAR, replace(LOOK, free=3), Level.WARNING, "3 connections left"),
        (FAR, replace(LOOK, encrypted=False), Level.WARNING, "between could read and change"),
        (Conninfo("x", {"host": "db1", "sslmode": "require"}), LOOK, Level.WARNING, "between could read and change"),
    ],
)
def test_what_doctor_makes_of_a_database(where: Conninfo, look: Look, level: Level, words: str) -> None:
    found = list(judge_postgres(where, look, "0007"))
    assert [f.text for f in found if f.level is level and words in f.text], found
    if level is Level.OK:
        assert len(found) == 1


def test_doctor_looks_at_a_real_database(postgres: Conninfo, empty: str, tmp_path: Path) -> None:
    [good] = look_postgres(postgres)
    assert (good.level, f"schema {newest()}" in good.text) == (Level.OK, True)
    [bad] = look_postgres(parse_conninfo(empty, tmp_path))
    assert (bad.level, "no tables" in bad.text) == (Level.PROBLEM, True)
    [away] = look_postgres(replace(postgres, parameters={**postgres.parameters, "host": "/nonexistent"}))
    assert away.level is Level.PROBLEM
    state = init(tmp_path, empty)
    said = controller("doctor", "--state", state, "--metrics", "off")
    assert "answers, " in said.stdout
    assert f"schema {newest()}" in said.stdout
