"""The contract of Store.notices and Store.leadership: two stores of one database stand for two processes."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path

import psycopg
import pytest
from segctl.errors import SegctlError
from segctl.model.policy import Tags
from segctl_controller.store import notices, postgres_sessions
from segctl_controller.store.conninfo import Conninfo
from segctl_controller.store.memory import MemoryStore
from segctl_controller.store.notices import EVERYTHING, Notice, Row, Topic, news
from segctl_controller.store.postgres import Postgres
from segctl_controller.store.postgres_sessions import PostgresLeadership
from segctl_controller.store.protocol import Store
from segctl_controller.store.records import (
    Entry,
    FactsRecord,
    GenerationRecord,
    GenerationState,
    HostRecord,
    OperatorRecord,
    Role,
    TokenRecord,
)
from segctl_controller.store.sql import SqlStore

ENTRY = Entry(1, "root", "act", "subject")
SECRET = hashlib.sha256(b"secret").digest()
TOKEN = TokenRecord("t-1", SECRET, Tags(), "", 999, 100, False, "root")
SECONDS = 10.0
QUIET = 0.3


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], SqlStore]]:
    """Opens another store of the same database."""
    stores: list[SqlStore] = []
    where: Conninfo | None = request.getfixturevalue("postgres") if request.param == "postgres" else None

    def open_one() -> SqlStore:
        stores.append(SqlStore(Postgres(where).checked() if where else tmp_path / "controller.db"))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


async def following(heard: AsyncIterator[Notice]) -> Notice:
    async with asyncio.timeout(SECONDS):
        return await anext(heard)


async def quiet(heard: AsyncIterator[Notice]) -> None:
    waiting = asyncio.ensure_future(anext(heard))
    done, _ = await asyncio.wait([waiting], timeout=QUIET)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert not done, waiting.result()


def listening(store: Store) -> AbstractAsyncContextManager[AsyncIterator[Notice]]:
    return aclosing(store.notices().listen())


def enrol(store: Store, name: str) -> None:
    host = HostRecord(name, Tags(), "aa", 5)
    store.enrol(SECRET, 5, lambda _token, _find: host, lambda _: ENTRY)


async def test_each_change_by_another_is_told_with_what_it_is_about(opened: Callable[[], SqlStore]) -> None:
    one, two = opened(), opened()
    trial = GenerationRecord("d", "root", "m", 1, state=GenerationState.TRIAL)
    changes: list[tuple[Callable[[], object], Notice]] = [
        (lambda: two.add_token(TOKEN, ENTRY), Notice(Topic.TOKENS)),
        (lambda: enrol(two, "web1"), Notice(Topic.HOSTS | Topic.TOKENS, frozenset({"web1"}))),
        (lambda: two.set_tags("web1", Tags(), Tags(), ENTRY), Notice(Topic.HOSTS, frozenset({"web1"}))),
        (lambda: two.set_facts([FactsRecord("web1", (), "1", b"", 1)]), Notice(Topic.HOSTS, frozenset({"web1"}))),
        (lambda: two.set_certificate("web1", "aa", "bb", b""), Notice(Topic.HOSTS, frozenset({"web1"}))),
        (lambda: two.add_generation(trial, 0, ENTRY), Notice(Topic.GENERATIONS)),
        (lambda: two.settle(1, GenerationState.UNDONE, "", ENTRY), Notice(Topic.GENERATIONS)),
        (lambda: two.add_operator(OperatorRecord("ann", Role.ADMIN, "a", 1), ENTRY), Notice(Topic.OPERATORS)),
        (lambda: two.renew_operator("ann", "b", ENTRY), Notice(Topic.OPERATORS)),
        (lambda: two.remove_operator("ann", ENTRY), Notice(Topic.OPERATORS)),
        (lambda: two.mark_restored(1, ENTRY), Notice(Topic.HOSTS | Topic.TOKENS, None)),
        (lambda: two.remove_host("web1", ENTRY), Notice(Topic.HOSTS, frozenset({"web1"}))),
        (lambda: two.add_token(TOKEN, ENTRY), Notice(Topic.TOKENS)),
        (lambda: two.remove_token("t-1", ENTRY), Notice(Topic.TOKENS)),
    ]
    async with listening(one) as heard:
        assert await following(heard) == EVERYTHING
        for change, notice in changes:
            change()
            assert await following(heard) == notice


async def test_own_changes_and_what_changes_nothing_are_not_told(opened: Callable[[], SqlStore]) -> None:
    one, two = opened(), opened()
    async with listening(one) as heard:
        assert await following(heard) == EVERYTHING
        one.add_token(TOKEN, ENTRY)
        two.add_entry(ENTRY)
        two.seen({"web1": 5})
        with pytest.raises(SegctlError):
            two.remove_host("nobody", ENTRY)
        await quiet(heard)
    async with listening(one) as heard:  # after own ones, those of others are
        assert await following(heard) == EVERYTHING
        for _ in range(3):
            enrol(one, "web1")
        enrol(two, "web2")
        enrol(one, "web3")
        assert await following(heard) == Notice(Topic.HOSTS | Topic.TOKENS, frozenset({"web2"}))


async def test_a_batch_is_told_as_one_and_not_before_it_ends(opened: Callable[[], SqlStore]) -> None:
    one, two = opened(), opened()
    two.add_token(TOKEN, ENTRY)
    async with listening(one) as heard:
        assert await following(heard) == EVERYTHING
        with two.batch():
            enrol(two, "web1")
            enrol(two, "web2")
            with pytest.raises(SegctlError):
                two.remove_operator("nobody", ENTRY)
            await quiet(heard)
    async with listening(one) as heard:
        assert await following(heard) == EVERYTHING
        with two.batch():
            enrol(two, "web1")
            two.set_tags("web2", Tags(), Tags(), ENTRY)
        assert await following(heard) == Notice(Topic.HOSTS | Topic.TOKENS, frozenset({"web1", "web2"}))
        with pytest.raises(KeyError), two.batch():
            enrol(two, "web3")
            raise KeyError
        await quiet(heard)
    async with listening(one) as heard:
        assert await following(heard) == EVERYTHING
        with two.batch():
            for number in range(notices.MANY + 1):
                two.set_facts([FactsRecord(f"web{number}", (), "1", b"", 1)])
        assert await following(heard) == Notice(Topic.HOSTS, None)


async def test_rows_go_and_who_missed_them_is_told_that_all_may_be_different(
    opened: Callable[[], SqlStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "KEPT", 40)
    one, two = opened(), opened()
    async with listening(one) as heard:
        assert await following(heard) == EVERYTHING
        two.add_token(TOKEN, ENTRY)
        assert await following(heard) == Notice(Topic.TOKENS)
        with two._transaction() as connection:
            for _ in range(60):
                notices.publish(connection, "other", Notice(Topic.TOKENS))
            left = connection.exec_driver_sql("SELECT min(id), max(id) FROM notices").one()
        assert tuple(left) == (21, 61)
        enrol(two, "web1")
        assert await following(heard) == EVERYTHING


def test_what_is_made_of_rows() -> None:
    rows = [Row(n, "b" if n % 2 else "a", 2, f'["h{n}"]') for n in range(1, 6)]
    assert news(rows, 0, "a") == (5, Notice(Topic.HOSTS, frozenset({"h1", "h3", "h5"})))
    assert news(rows[2:], 3, "a") == (5, Notice(Topic.HOSTS, frozenset({"h5"})))
    assert news(rows[3:], 4, "b") == (5, None)
    assert news(rows[3:], 3, "a") == (5, EVERYTHING)  # row 3 is gone
    assert news([], 3, "a") == (0, EVERYTHING)  # another database
    assert news([], 0, "a") == (0, None)
    assert news([Row(1, "b", 2, ""), rows[1]], 0, "c") == (2, Notice(Topic.HOSTS, None))


async def test_what_was_missed_while_the_connection_was_lost_is_told_after(
    postgres: Conninfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_sessions, "AGAIN_SECONDS", 0.2)
    one, two = (SqlStore(Postgres(postgres).checked()) for _ in range(2))
    two.add_token(TOKEN, ENTRY)
    async with listening(one) as heard:
        assert await following(heard) == EVERYTHING
        end_sessions(postgres)
        waiting = asyncio.ensure_future(following(heard))
        await asyncio.sleep(0.05)
        enrol(two, "web1")
        enrol(one, "web2")
        assert await waiting == Notice(Topic.HOSTS | Topic.TOKENS, frozenset({"web1"}))
    for store in (one, two):
        store.close()


def end_sessions(where: Conninfo, query: str = "%") -> None:
    with psycopg.connect(**where.parameters, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE %s",
            (query,),
        )


async def test_a_store_of_its_own_is_told_once_and_leads() -> None:
    store = MemoryStore()
    async with listening(store) as heard:
        assert await following(heard) == EVERYTHING
        store.add_token(TOKEN, ENTRY)
        await quiet(heard)
    leadership = store.leadership()
    async with aclosing(leadership.campaign()) as won:
        assert (await anext(won), leadership.held) == (True, True)


async def test_sqlite_leads_always(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "controller.db")
    leadership = store.leadership()
    async with aclosing(leadership.campaign()) as won:
        assert (await anext(won), leadership.held) == (True, True)
    store.close()


async def test_one_leads_and_the_next_does_when_it_ends(postgres: Conninfo) -> None:
    first, second = PostgresLeadership(postgres), PostgresLeadership(postgres)
    async with aclosing(second.campaign()) as won:
        async with aclosing(first.campaign()) as before:
            assert await anext(before)
            waiting = asyncio.ensure_future(anext(won))
            await asyncio.wait([waiting], timeout=QUIET)
            assert (waiting.done(), first.held, second.held) == (False, True, False)
        async with asyncio.timeout(SECONDS):
            assert await waiting
        assert (first.held, second.held) == (False, True)


async def test_who_loses_the_connection_leads_no_more_and_may_win_again(
    postgres: Conninfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_sessions, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(postgres_sessions, "AGAIN_SECONDS", 0.05)
    leadership = PostgresLeadership(postgres)
    async with aclosing(leadership.campaign()) as won:
        assert await anext(won)
        end_sessions(postgres)
        assert not await anext(won)
        assert not leadership.held
        assert await anext(won)
        assert leadership.held


async def test_a_frozen_leader_knows_that_it_leads_no_more_before_another_does(
    postgres: Conninfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_sessions, "LEASE_SECONDS", 0.4)
    monkeypatch.setattr(postgres_sessions, "SERVER_SECONDS", 0.6)
    frozen, next_ = PostgresLeadership(postgres), PostgresLeadership(postgres)
    async with aclosing(frozen.campaign()) as before, aclosing(next_.campaign()) as won:
        assert await anext(before)  # and nobody goes on with it: it is as if its process were frozen
        began = time.monotonic()
        async with asyncio.timeout(SECONDS):
            assert await anext(won)
        assert (frozen.held, next_.held) == (False, True)
        assert time.monotonic() - began > 0.4
        assert not await anext(before)
