"""The part of segctl_controller.store.protocol.Store that is about sessions of browsers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from segctl.model.policy import Tags
from segctl_controller.errors import NotFoundError
from segctl_controller.store.conninfo import Conninfo
from segctl_controller.store.copying import copy_rows, new_file
from segctl_controller.store.postgres import Postgres
from segctl_controller.store.protocol import Store
from segctl_controller.store.records import ApiTokenRecord, Entry, Limits, Role, WebSessionRecord
from segctl_controller.store.sql import SqlStore
from sqlalchemy import text

from tests.contract.stores import make_store

LIMITS = Limits(web_sessions=6, web_sessions_of_one=3)
ENTRY = Entry(1, "root", "act", "subject", "detail")


@pytest.fixture(params=["sqlite", "postgres", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = make_store(request, tmp_path, LIMITS)
    yield made
    made.close()


def identifier(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def session(name: str, identity: str = "oidc a", used_us: int = 100, began_us: int = 100) -> WebSessionRecord:
    return WebSessionRecord(identifier(name), identity, began_us, used_us, b"\0sealed " + name.encode())


def kept(store: Store, *names: str) -> list[str]:
    return [name for name in names if store.web_session(identifier(name)) is not None]


def test_a_session_is_found_until_it_is_ended_once(store: Store) -> None:
    store.add_web_session(session("s1"), 0, 0)
    assert store.web_session(identifier("s1")) == session("s1")
    assert store.web_session(identifier("s2")) is store.end_web_session(identifier("s2")) is None
    assert store.end_web_session(identifier("s1")) == session("s1")
    assert store.end_web_session(identifier("s1")) is store.web_session(identifier("s1")) is None


def test_use_is_never_earlier_than_it_was(store: Store) -> None:
    store.add_web_session(session("s1"), 0, 0)
    for at_us in (300, 200):
        store.use_web_session(identifier("s1"), at_us)
    store.use_web_session(identifier("s2"), 300)
    assert store.web_session(identifier("s1")) == replace(session("s1"), used_us=300)


def test_those_that_ended_and_the_least_used_make_room(store: Store) -> None:
    store.add_web_session(session("idle", used_us=50), 0, 0)
    store.add_web_session(session("old", used_us=200, began_us=10), 0, 0)
    store.add_web_session(session("s1"), 51, 11)
    assert kept(store, "idle", "old", "s1") == ["s1"]
    for number in (2, 3, 4):
        store.add_web_session(session(f"s{number}", used_us=100 + number), 0, 0)
    assert kept(store, "s1", "s2", "s3", "s4") == ["s2", "s3", "s4"]
    store.use_web_session(identifier("s2"), 500)
    for number in range(4):
        store.add_web_session(session(f"o{number}", f"oidc {number}", used_us=400), 0, 0)
    assert kept(store, "s2", "s3", "s4", "o0", "o1", "o2", "o3") == ["s2", "s4", "o0", "o1", "o2", "o3"]


def test_one_has_the_lease_and_what_is_kept_is_of_the_version_that_was_read(store: Store) -> None:
    store.add_web_session(session("s1"), 0, 0)
    s1 = identifier("s1")
    assert not store.lease_web_session(identifier("s2"), 1, 1000, 2000)
    assert not store.lease_web_session(s1, 2, 1000, 2000)
    assert store.lease_web_session(s1, 1, 1000, 2000)
    assert not store.lease_web_session(s1, 1, 1999, 3000)
    assert store.lease_web_session(s1, 1, 2000, 3000)
    assert store.keep_web_session(s1, 1, b"next")
    assert store.web_session(s1) == replace(session("s1"), sealed=b"next", version=2)
    assert not store.keep_web_session(s1, 1, b"late")
    assert store.lease_web_session(s1, 2, 2500, 3000)
    store.end_web_session(s1)
    assert not store.keep_web_session(s1, 2, b"late")


def test_sessions_go_with_their_token_and_none_is_restored(store: Store) -> None:
    token = ApiTokenRecord("t1", identifier("t"), "ci", Role.VIEWER, Tags(), "root", 1, 100)
    store.add_api_token(token, ENTRY)
    for name, identity in (("s1", "api-token t1"), ("s2", "api-token t10"), ("s3", "oidc t1")):
        store.add_web_session(session(name, identity), 0, 0)
    with pytest.raises(NotFoundError):
        store.remove_api_token("t10", ENTRY)
    store.remove_api_token("t1", ENTRY)
    assert kept(store, "s1", "s2", "s3") == ["s2", "s3"]
    store.mark_restored(1, ENTRY)
    assert kept(store, "s2", "s3") == []


def test_no_session_is_in_a_backup_of_postgresql(postgres: Conninfo, tmp_path: Path) -> None:
    store = SqlStore(Postgres(postgres).checked())
    try:
        store.add_web_session(session("s1"), 0, 0)
        store.add_entry(ENTRY)
        with store._transaction() as connection, new_file(tmp_path / "copy.db") as copy:
            copy_rows(connection, copy)
            assert copy.scalar(text("SELECT count(*) FROM audit")) == 1
            assert copy.scalar(text("SELECT count(*) FROM web_sessions")) == 0
    finally:
        store.close()
