"""What only the PostgreSQL store has: a server that can go away, and several controllers that write at once."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from segctl.errors import EnrolmentError, StateError
from segctl.model.policy import Tags
from segctl_controller.errors import ConflictError, StoreFullError
from segctl_controller.store import postgres as module
from segctl_controller.store.conninfo import Conninfo, parse_conninfo
from segctl_controller.store.postgres import Postgres
from segctl_controller.store.records import Entry, GenerationRecord, GenerationState, HostRecord, TokenRecord
from segctl_controller.store.sql import SqlStore
from segctl_controller.store.tables import metadata

from tests.postgres import GUARDED, TEMPLATE, Server

ENTRY = Entry(1, "root", "act", "subject")
SECRET = hashlib.sha256(b"secret").digest()


@pytest.fixture
def replicas(postgres: Conninfo) -> Iterator[tuple[SqlStore, SqlStore]]:
    one, two = (SqlStore(Postgres(postgres).checked()) for _ in range(2))
    yield one, two
    one.close()
    two.close()


def at_once(*works: Callable[[], object]) -> None:
    gate = threading.Barrier(len(works))

    def work(one: Callable[[], object]) -> None:
        gate.wait()
        one()

    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(work, one) for one in works]:
            done.result()


def admin(where: Conninfo) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(**where.parameters, autocommit=True)


def end_sessions(where: Conninfo) -> None:
    with admin(where) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_numbers_and_the_audit_log_have_no_gap_whoever_writes(replicas: tuple[SqlStore, SqlStore]) -> None:
    def push(store: SqlStore) -> None:
        for _ in range(10):
            with store.batch():
                store.add_generation(GenerationRecord("d", "root", "m", 1), 0, ENTRY)
                with pytest.raises(ConflictError):
                    store.add_generation(GenerationRecord("d", "root", "m", 1), 999, ENTRY)
                store.add_entry(ENTRY)

    at_once(*(lambda s=store: push(s) for store in replicas))
    assert [g.number for g in replicas[0].generations(99)] == list(range(20, 0, -1))
    assert [e.sequence for e in replicas[1].entries(99)] == list(range(40, 0, -1))


def test_one_trial_at_a_time_and_no_use_of_a_token_too_many(replicas: tuple[SqlStore, SqlStore]) -> None:
    replicas[0].add_token(TokenRecord("t", SECRET, Tags(), "", 7, 100, False, "root"), ENTRY)
    outcomes: list[str] = []

    def act(store: SqlStore, who: str) -> None:
        trial = GenerationRecord("d", "root", "m", 1, state=GenerationState.TRIAL)
        for number in range(8):
            try:
                store.add_generation(trial, 0, ENTRY)
                outcomes.append("trial")
            except ConflictError:
                pass
            try:
                host = HostRecord(f"{who}{number}", Tags(), "aa", 5)
                store.enrol(SECRET, 5, lambda _token, _find, host=host: host, lambda _host: ENTRY)
                outcomes.append("enrolled")
            except EnrolmentError:
                pass

    at_once(*(lambda s=store, w=who: act(s, w) for store, who in zip(replicas, "ab", strict=True)))
    assert (outcomes.count("trial"), outcomes.count("enrolled"), len(replicas[1].hosts())) == (1, 7, 7)


def test_nothing_of_a_batch_is_there_before_it_ends(replicas: tuple[SqlStore, SqlStore]) -> None:
    one, two = replicas
    with one.batch():
        one.add_entry(ENTRY)
        with two._reading() as reader:
            assert reader.exec_driver_sql("SELECT count(*) FROM audit").scalar_one() == 0
    assert len(two.entries(5)) == 1
    with pytest.raises(KeyError), one.batch():
        one.add_entry(ENTRY)
        raise KeyError("between the calls")
    assert len(two.entries(5)) == 1


def test_a_lost_connection_fails_all_of_a_batch_and_the_next_call_has_another(postgres: Conninfo) -> None:
    store = SqlStore(Postgres(postgres).checked())
    with pytest.raises(StateError, match=r"PostgreSQL database t\d+ at .*lost"), store.batch():
        store.add_entry(ENTRY)
        end_sessions(postgres)
        for _ in range(2):
            with pytest.raises(StateError):
                store.add_entry(ENTRY)
    assert store.entries(5) == ()
    store.add_entry(ENTRY)
    end_sessions(postgres)
    assert len(store.entries(5)) == 1
    store.close()


def test_a_server_that_was_restarted_is_used_again(postgres: Conninfo, postgres_server: Server) -> None:
    store = SqlStore(Postgres(postgres).checked())
    store.add_entry(ENTRY)
    postgres_server.stop()
    with pytest.raises(StateError, match=r"cannot be used.*check its server"):
        store.entries(5)
    postgres_server.start()
    assert len(store.entries(5)) == 1
    store.close()


def test_who_hangs_within_a_transaction_holds_up_others_for_a_while_only(
    postgres: Conninfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "SESSION", module.SESSION.replace("'5s'", "'300ms'"))
        hangs = SqlStore(Postgres(postgres).checked())
    waits = SqlStore(Postgres(postgres).checked())
    with pytest.raises(StateError, match=r"held up within a transaction|lost"), hangs.batch():
        hangs.add_entry(Entry(1, "root", "hangs", "subject"))
        waits.add_entry(ENTRY)  # within the batch of the other: it waits for the server to end that one
        hangs.add_entry(ENTRY)
    assert [e.action for e in waits.entries(5)] == ["act"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "SESSION", module.SESSION.replace("'15s'", "'200ms'"))
        impatient = SqlStore(Postgres(postgres).checked())
    with waits.batch():
        waits.add_entry(ENTRY)
        with pytest.raises(StateError, match="another controller held its lock"):
            impatient.add_entry(ENTRY)
    for store in (hangs, waits, impatient):
        store.close()


def test_a_full_disk_stores_nothing_and_says_so(postgres_server: Server, tmp_path: Path) -> None:
    where = parse_conninfo(postgres_server.conninfo(postgres_server.database()), tmp_path)
    store = SqlStore(Postgres(where).checked())
    with admin(where) as connection:
        connection.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$; "
            "CREATE TRIGGER full_disk BEFORE INSERT ON generations EXECUTE FUNCTION full_disk()"
        )
    with store.batch():
        with pytest.raises(StoreFullError, match=r"its disk is full; nothing was stored.*could not extend"):
            store.add_generation(GenerationRecord("d", "root", "m", 1), 0, ENTRY)
        store.add_entry(ENTRY)
    assert (store.generations(5), len(store.entries(5))) == ((), 1)
    store.close()


def test_the_audit_log_can_only_grow(postgres: Conninfo) -> None:
    store = SqlStore(Postgres(postgres).checked())
    store.add_entry(ENTRY)
    store.close()
    with admin(postgres) as connection:
        for statement in ("UPDATE audit SET actor = 'x'", "DELETE FROM audit", "TRUNCATE audit"):
            with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
                connection.execute(statement)


def test_the_migrations_make_the_tables_that_the_code_uses(postgres_server: Server, tmp_path: Path) -> None:
    name = postgres_server.database()  # a new one: others may have a flow store, which has tables of its own
    database = Postgres(parse_conninfo(postgres_server.conninfo(name), tmp_path))
    with database.reader.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        collations = connection.exec_driver_sql(
            "SELECT DISTINCT collation_name FROM information_schema.columns WHERE table_schema = 'public' "
            "AND data_type = 'text' AND table_name <> 'alembic_version'"
        ).scalars()
        assert list(collations) == ["C"]
    database.close()


def test_a_schema_that_is_not_this_versions_is_refused(postgres_server: Server, tmp_path: Path) -> None:
    where = parse_conninfo(postgres_server.conninfo(postgres_server.database("template1")), tmp_path)
    database = Postgres(where)
    with pytest.raises(StateError, match="its schema is missing"):
        database.checked()
    other = Postgres(where)
    with pytest.raises(StateError, match="controllers use it; stop all of them first"):
        database.migrate()
    other.close()
    database.migrate()
    with database.alone(), pytest.raises(StateError, match="is being migrated or restored"):
        Postgres(where)
    for version, words in (("0003", "segctl-controller migrate"), ("9999", "a newer segctl-controller wrote")):
        with admin(where) as connection:
            connection.execute("UPDATE alembic_version SET version_num = %s", (version,))
        with pytest.raises(StateError, match=words):
            database.checked()
    database.close()


def test_a_database_in_another_encoding_is_refused(postgres_server: Server, tmp_path: Path) -> None:
    postgres_server.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    with pytest.raises(StateError, match="its encoding is SQL_ASCII; make one with: createdb --encoding UTF8"):
        Postgres(parse_conninfo(postgres_server.conninfo("latin"), tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dbname": "nowhere"}, '"nowhere" does not exist'),
        ({"user": "nobody"}, '"nobody" does not exist'),
        ({"host": "/nonexistent"}, "No such file or directory.*check its server"),
    ],
)
def test_what_is_wrong_with_a_connection_is_told(postgres: Conninfo, change: dict[str, str], words: str) -> None:
    with pytest.raises(StateError, match=words):
        Postgres(Conninfo("PostgreSQL", {**postgres.parameters, **change}))


def test_the_password_is_read_from_pgpass_and_never_shown(
    postgres: Conninfo, postgres_server: Server, tmp_path: Path
) -> None:
    name = str(postgres.parameters["dbname"])
    postgres_server.execute(f"CREATE ROLE {GUARDED} LOGIN PASSWORD 'hunter2'")
    text = f"host={postgres_server.directory} user={GUARDED} dbname={name}"
    with pytest.raises(StateError, match=r"no password supplied.*a line of pgpass"):
        Postgres(parse_conninfo(text, tmp_path, {}))
    passfile = tmp_path / "pgpass"
    for password, words in (("hunter3", "password authentication failed"), ("hunter2", "")):
        passfile.write_text(f"*:*:{name}:{GUARDED}:{password}\n")
        passfile.chmod(0o600)
        where = parse_conninfo(text, tmp_path, {})
        if words:
            with pytest.raises(StateError, match=words) as refused:
                Postgres(where)
            assert password not in str(refused.value)
        else:
            Postgres(where).close()
    postgres_server.execute(f"DROP ROLE {GUARDED}")


def test_who_only_reads_can_only_read(replicas: tuple[SqlStore, SqlStore]) -> None:
    store, other = replicas
    with store.batch():
        store.add_entry(ENTRY)
        assert other.rule_use("") == ()  # it waits for no writer
    with pytest.raises(StateError, match="read-only"), store._reading() as reader:
        reader.exec_driver_sql("DELETE FROM flows")


def test_the_template_has_no_rows(postgres_server: Server) -> None:
    with psycopg.connect(host=str(postgres_server.directory), user="segctl", dbname=TEMPLATE) as connection:
        assert connection.execute("SELECT count(*) FROM audit").fetchone() == (0,)
