"""What only the SQLite store has: files, schema versions, triggers, a disk that fills up."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from segctl.errors import StateError
from segctl.policy.source import SourceFile
from segctl_controller.errors import StoreFullError
from segctl_controller.setup import open_store
from segctl_controller.store.records import Entry, GenerationRecord
from segctl_controller.store.sql import SqlStore
from segctl_controller.store.sqlite import open_engine
from segctl_controller.store.tables import metadata
from sqlalchemy.exc import OperationalError

from tests.unit.segctl_controller.oldschema import without_access

ENTRY = Entry(1, "root", "act", "subject")


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "controller.db"
    store = SqlStore(path)
    store.add_entry(ENTRY)
    store.close()
    again = SqlStore(path)
    assert [e.action for e in again.entries(5)] == ["act"]
    again.close()


def test_only_the_owner_can_read_the_database(tmp_path: Path) -> None:
    SqlStore(tmp_path / "controller.db").close()
    assert (tmp_path / "controller.db").stat().st_mode & 0o777 == 0o600


def test_the_audit_log_can_only_grow(tmp_path: Path) -> None:
    path = tmp_path / "controller.db"
    store = SqlStore(path)
    store.add_entry(ENTRY)
    store.close()
    connection = sqlite3.connect(path)
    for statement in ("UPDATE audit SET actor = 'x'", "DELETE FROM audit"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "controller.db"
    SqlStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(StateError, match=r"controller.db: a newer segctl-controller .*9999.*restore a backup"):
        SqlStore(path)


@pytest.mark.parametrize("content", [b"this is no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "controller.db"
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"controller.db: the database is damaged .*restore"):
        SqlStore(path)


def test_a_damaged_page_is_found_at_start(tmp_path: Path) -> None:
    path = tmp_path / "controller.db"
    store = SqlStore(path)
    for _ in range(500):
        store.add_entry(Entry(1, "root", "act", "subject", "x" * 200))
    store.close()
    raw = bytearray(path.read_bytes())
    middle = len(raw) // 2 // 4096 * 4096
    raw[middle : middle + 8192] = b"\xa5" * 8192
    path.write_bytes(raw)
    with pytest.raises(StateError, match=r"controller.db: the database is damaged"):
        SqlStore(path)


def test_a_damaged_schema_is_named_though_no_message_about_it_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "controller.db"
    SqlStore(path).close()
    raw = bytearray(path.read_bytes())
    for at in range(4096, len(raw), 512):
        raw[at + 100] ^= 0xFF
    path.write_bytes(raw)
    for opened in (lambda: SqlStore(path), lambda: open_store(tmp_path)):
        with pytest.raises(StateError, match=r"controller.db: the database is damaged"):
            opened()


def test_a_full_disk_stores_nothing_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "controller.db"
    store = SqlStore(path)
    with store._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 4}")
    # Bytes that do not compress: the file must need more pages than there are.
    content = b"".join(n.to_bytes(4, "big") for n in range(2**20, 2**20 + 60_000))
    new = GenerationRecord("d", "root", "m", 1, (SourceFile("a.yaml", content),))
    with pytest.raises(StoreFullError, match=r"controller.db: the disk .* nothing was stored"):
        store.add_generation(new, 0, ENTRY)
    assert store.generations(5) == ()
    assert store.entries(5) == ()
    store.close()


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"missing/controller.db: cannot be opened"):
        SqlStore(tmp_path / "missing" / "controller.db")


def test_the_migrations_make_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "controller.db")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        changes = compare_metadata(context, metadata)
    engine.dispose()
    assert changes == []


def test_who_reads_flows_holds_up_no_writer_and_writes_nothing(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "controller.db")
    with store._reading() as reader:
        assert reader.exec_driver_sql("SELECT count(*) FROM audit").scalar_one() == 0
        store.add_entry(ENTRY)
        assert reader.exec_driver_sql("SELECT count(*) FROM audit").scalar_one() == 0
        with pytest.raises(OperationalError, match="readonly"):
            reader.exec_driver_sql("DELETE FROM flows")
    assert len(store.entries(5)) == 1
    store.close()


def test_a_database_of_the_first_schema_is_brought_up_and_keeps_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "controller.db"
    store = SqlStore(path)
    store.add_entry(ENTRY)
    store.close()
    without_access(path)
    connection = sqlite3.connect(path)
    for table in ("flows", "flow_losses", "rule_hits", "told", "notices"):
        connection.execute(f"DROP TABLE {table}")
    for column in ("state", "why"):
        connection.execute(f"ALTER TABLE generations DROP COLUMN {column}")
    for column in ("renewal", "restored_us"):
        connection.execute(f"ALTER TABLE hosts DROP COLUMN {column}")
    connection.execute("UPDATE alembic_version SET version_num = '0001'")
    connection.commit()
    connection.close()
    again = SqlStore(path)
    assert [e.action for e in again.entries(5)] == ["act"]
    again.close()


def test_nothing_of_a_batch_is_there_before_it_ends(tmp_path: Path) -> None:
    store, other = (SqlStore(tmp_path / "controller.db") for _ in range(2))
    with store.batch():
        store.add_entry(ENTRY)
        store.add_entry(ENTRY)
        with other._reading() as reader:
            assert reader.exec_driver_sql("SELECT count(*) FROM audit").scalar_one() == 0
    assert len(other.entries(5)) == 2
    with pytest.raises(KeyError), store.batch():
        store.add_entry(ENTRY)
        raise KeyError("between the calls")
    assert len(other.entries(5)) == 2
    store.close()
    other.close()


def test_a_disk_that_fills_up_within_a_batch_fails_all_of_it(tmp_path: Path) -> None:
    """SQLite rolls the transaction back by itself then: what comes after must not be stored as if it were whole."""
    store = SqlStore(tmp_path / "controller.db")
    with store._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(StoreFullError, match="nothing was stored"), store.batch():
        store.add_entry(ENTRY)
        for detail in ("x" * 100_000, ""):
            with pytest.raises(StoreFullError, match="nothing was stored"):
                store.add_entry(Entry(1, "root", "act", "subject", detail))
    assert store.entries(5) == ()
    store.add_entry(ENTRY)
    assert len(store.entries(5)) == 1
    store.close()
