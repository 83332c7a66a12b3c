"""The chained audit log in the database: old logs are chained, backups too, writers cannot fork it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from threading import Thread

import pytest
from segctl.auditchain import GENESIS, ChainError, Link, Verifier
from segctl_controller.backup import take_backup
from segctl_controller.clock import Clock
from segctl_controller.config import DATABASE_FILE
from segctl_controller.setup import open_store
from segctl_controller.store.records import Entry, EntryFilter
from segctl_controller.store.sql import SqlStore

from tests.controller_harness import init_state
from tests.unit.segctl_controller.oldschema import without_access

ENTRY = Entry(1, "root", "act", "subject", "detail")


def verified(entries: Iterable[Entry]) -> int:
    verifier = Verifier()
    for entry in entries:
        verifier.take(Link(**asdict(entry)))
    return verifier.count


def everything(store: SqlStore) -> tuple[Entry, ...]:
    return store.entries(10_000, EntryFilter(oldest_first=True))


def test_what_was_written_before_is_chained_and_stays_append_only(tmp_path: Path) -> None:
    path = tmp_path / "controller.db"
    SqlStore(path).close()
    without_access(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        for sequence in (1, 2, 4, 9):  # numbers that a failed transaction left out
            values = (sequence, sequence * 10, "ann", "push", "x", f"d{sequence}")
            connection.execute(
                "INSERT INTO audit (sequence, at_us, actor, action, subject, detail) VALUES (?, ?, ?, ?, ?, ?)", values
            )
    store = SqlStore(path)
    store.add_entry(ENTRY)
    found = everything(store)
    assert verified(found) == 5
    assert [e.detail for e in found] == ["d1", "d2", "d4", "d9", "detail"]
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        for statement in ("UPDATE audit SET actor = 'x'", "DELETE FROM audit"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)


@pytest.mark.parametrize("old", [False, True])
def test_a_backup_is_noted_in_the_chain_or_before_there_is_one(tmp_path: Path, old: bool) -> None:
    state = init_state(tmp_path)
    if old:
        without_access(state / DATABASE_FILE)
    take_backup(state, tmp_path / "backup", Clock())
    store = open_store(state)
    store.add_entry(ENTRY)
    found = everything(store)
    store.close()
    assert [e.action for e in found] == ["admin-add", "backup", "act"]
    assert verified(found) == 3


def test_two_writers_continue_one_chain(tmp_path: Path) -> None:
    """A running controller, and the command `segctl-controller admin` beside it."""
    path = tmp_path / "controller.db"
    stores = [SqlStore(path) for _ in range(2)]

    def write(store: SqlStore) -> None:
        for _ in range(25):
            store.add_entry(ENTRY)

    threads = [Thread(target=write, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verified(everything(stores[0])) == 50
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'eve' WHERE sequence = 2",
        "DELETE FROM audit WHERE sequence = 2",
        "UPDATE audit SET previous = '{0}', sequence = 1 WHERE sequence = 3",
    ],
)
def test_who_can_write_the_database_is_found_out(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "controller.db"
    store = SqlStore(path)
    for _ in range(3):
        store.add_entry(ENTRY)
    with closing(sqlite3.connect(path)) as connection, connection:
        for verb in ("update", "delete"):
            connection.execute(f"DROP TRIGGER audit_no_{verb}")
        if "sequence = 1" in statement:
            connection.execute("DELETE FROM audit WHERE sequence < 3")
        connection.execute(statement.format(GENESIS))
    with pytest.raises(ChainError):
        verified(everything(store))
    store.close()
