"""The contract of Store.shared: two stores of one PostgreSQL stand for two controllers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from segctl.model.policy import Tags
from segctl_controller.store import postgres_shared
from segctl_controller.store.conninfo import Conninfo
from segctl_controller.store.memory import MemoryStore
from segctl_controller.store.postgres import Postgres
from segctl_controller.store.records import Entry, GenerationRecord, GenerationState, HostRecord, TokenRecord
from segctl_controller.store.shared import AnswerRecord, Beat, Presence, QuestionRecord, SharedStore, TrialRecord
from segctl_controller.store.sql import SqlStore

ENTRY = Entry(1, "root", "act", "subject")
SECONDS = 10.0


@pytest.fixture
def store(postgres: Conninfo) -> Iterator[SqlStore]:
    store = SqlStore(Postgres(postgres).checked())
    yield store
    store.close()


@pytest.fixture
def shared(store: SqlStore) -> SharedStore:
    found = store.shared()
    assert found is not None
    found.claim("fleet-1")
    return found


def test_a_store_of_one_controller_has_none(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "controller.db")
    assert (store.shared(), MemoryStore().shared()) == (None, None)
    store.close()


def test_the_first_fleet_has_the_database(shared: SharedStore) -> None:
    assert (shared.claim("fleet-2"), shared.claim("fleet-1")) == ("fleet-1", "fleet-1")


def test_a_claim_takes_a_host_and_an_update_only_keeps_it(shared: SharedStore) -> None:
    assert shared.tell("a", {"h1": "1", "h2": "2"}, {}) == 1
    assert shared.tell("b", {"h1": "3"}, {"h2": "4", "h3": "5"}) == 2
    assert shared.tell("a", {}, {"h1": "6", "h2": "7"}) == 3
    assert shared.presences(0, "a") == (Presence("h1", "b", "3", 2), Presence("h3", "b", "5", 2))
    assert shared.presences(0, "b") == (Presence("h2", "a", "7", 3),)
    assert shared.presences(2, "") == (Presence("h2", "a", "7", 3),)
    shared.forget("b")
    assert [p.host for p in shared.presences(0, "")] == ["h2"]
    assert shared.tell("b", {"h9": "8"}, {}) == 4  # a version is not given again


def test_a_host_that_is_removed_is_nowhere(store: SqlStore, shared: SharedStore) -> None:
    token = TokenRecord("t-1", b"s" * 32, Tags(), "", 1, 100, False, "root")
    store.add_token(token, ENTRY)
    store.enrol(token.sha256, 5, lambda _token, _find: HostRecord("h1", Tags(), "aa", 5), lambda _: ENTRY)
    shared.tell("a", {"h1": "1"}, {})
    store.remove_host("h1", ENTRY)
    assert shared.presences(0, "") == ()


def test_a_trial_is_kept_until_its_generation_is_settled(store: SqlStore, shared: SharedStore) -> None:
    trial = TrialRecord(1, "a", {"STAGED": ["h1", "h2"]}, step=b"x")
    shared.keep_trial(trial)
    assert shared.pushes().trial is None  # there is no such generation
    store.add_generation(GenerationRecord("d", "root", "m", 1, state=GenerationState.TRIAL), 0, ENTRY)
    shared.keep_trial(trial)
    assert shared.pushes().trial == trial
    shared.end_trial(1, "ann ended it")
    shared.end_trial(1, "bob ended it")
    tried = replace(trial, phases={"STAGED": ["h1"], "TRIED": ["h2"]}, accept_denials=True)
    shared.keep_trial(tried)
    assert shared.pushes().trial == replace(tried, ended_by="ann ended it")
    newest = shared.pushes().newest
    assert newest is not None
    assert (newest.number, newest.files, shared.pushes().active) == (1, (), 0)
    store.settle(1, GenerationState.CONFIRMED, "", ENTRY)
    assert shared.pushes().active == 1
    assert shared.pushes().trial is None
    shared.keep_trial(tried)
    assert shared.pushes().trial is None


def test_a_question_is_answered_once_and_forgotten(shared: SharedStore) -> None:
    asked = [QuestionRecord("a", n, "b" if n < 4 else "c", f"h{n}", "probe", b"\0%d" % n) for n in (1, 2, 3, 4)]
    shared.ask(asked)
    found = shared.questions("b", 0)
    assert [replace(q, id=0) for q in found] == asked[:3]
    assert shared.questions("b", found[0].id) == found[1:]
    assert shared.answers("a") == ()
    told = [AnswerRecord(found[0].id, 1, b"\0yes"), AnswerRecord(found[1].id, 2, b"", "no")]
    shared.answer(told)
    assert shared.questions("b", 0) == found[2:]
    assert shared.answers("b") == ()
    assert sorted(shared.answers("a"), key=lambda one: one.id) == told
    shared.withdraw("b", [3, 4])
    shared.withdraw("a", [3])
    shared.answer([AnswerRecord(found[2].id, 3, b"late")])
    assert (shared.answers("a"), shared.questions("b", 0)) == ((), ())
    assert [q.number for q in shared.questions("c", 0)] == [4]


@pytest.mark.parametrize("gone", ["a", "b"])
def test_questions_go_with_who_asked_or_was_asked(shared: SharedStore, gone: str) -> None:
    shared.ask([QuestionRecord("a", 1, "b", "h1", "probe", b""), QuestionRecord("c", 1, "d", "h1", "probe", b"")])
    shared.forget(gone)
    assert (len(shared.questions("b", 0)), len(shared.questions("d", 0))) == (0, 1)


async def test_who_serves_is_counted(shared: SharedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_shared, "BEAT_SECONDS", 0.02)
    shared.tell("a", {"h1": "1"}, {})
    async with aclosing(shared.beats("a", "ctl1:7443")) as ours, aclosing(shared.beats("b", "ctl2:7443")) as others:
        async with asyncio.timeout(SECONDS):
            assert await anext(ours) == Beat({"a": ("ctl1:7443", 1)}, anew=True, presence=1)
            await anext(others)
            assert await anext(ours) == Beat({"a": ("ctl1:7443", 2), "b": ("ctl2:7443", 1)}, presence=1)
            shared.forget("b", 7)  # it has not looked so often
            shared.forget("a", 2)
            beat = await anext(ours)
            assert beat is not None
            assert (beat.anew, beat.replicas) == (True, {"a": ("ctl1:7443", 1), "b": ("ctl2:7443", 1)})
            assert shared.presences(0, "") == ()
