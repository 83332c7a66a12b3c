"""The contract of Store for hits, for the SQLite store and the one in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from segctl.model.policy import Tags
from segctl_controller.store.memory import MemoryStore
from segctl_controller.store.protocol import FindHost, Store
from segctl_controller.store.records import (
    Batch,
    Entry,
    HitRecord,
    HostRecord,
    RuleUse,
    TokenRecord,
)
from segctl_controller.store.sql import SqlStore

NOW = 500_000 * 3_600_000_000
ENTRY = Entry(1, "root", "act", "subject")
SECRET = hashlib.sha256(b"secret").digest()
TOKEN = TokenRecord("t-1", SECRET, Tags(), "", 9, NOW, False, "root")


def hit(host: str = "web1", rule: str = "web-db", count: int = 1, *, ingress: bool = False, at: int = 7) -> HitRecord:
    return HitRecord(host, rule, ingress, count, at)


def join(store: Store, name: str) -> None:
    def admit(found: TokenRecord, _find: FindHost) -> HostRecord:
        return HostRecord(name, found.tags, "aa", 50)

    store.enrol(SECRET, 50, admit, lambda _host: ENTRY)


@pytest.fixture(params=["sql", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = SqlStore(tmp_path / "controller.db") if request.param == "sql" else MemoryStore()
    made.add_token(TOKEN, ENTRY)
    join(made, "web1")
    join(made, "db1")
    yield made
    made.close()


def test_a_batch_with_hits_is_stored_once(store: Store) -> None:
    batch = Batch("web1", "e", 1, NOW, hits=(hit(count=2),))
    assert store.add_batch(batch) == ()
    assert store.add_batch(batch) is None
    assert store.rule_use("") == (RuleUse("web-db", 2, 0, 7, 1),)


def test_hits_are_totals_and_never_fall(store: Store) -> None:
    for sequence, (count, at) in enumerate(((5, 70), (9, 90), (3, 80))):
        store.add_batch(Batch("web1", "e", sequence + 1, NOW, hits=(hit(count=count, at=at),)))
    assert store.rule_use("web-db") == (RuleUse("web-db", 9, 0, 90, 1),)


def test_hits_of_hosts_add_up_by_direction(store: Store) -> None:
    store.add_batch(Batch("web1", "e", 1, NOW, hits=(hit(count=5), hit(count=1, ingress=True), hit(rule="z", count=0))))
    store.add_batch(Batch("db1", "e", 1, NOW, hits=(hit("db1", count=6, ingress=True, at=9), hit("db1", rule="a"))))
    assert store.rule_use("") == (RuleUse("a", 1, 0, 7, 1), RuleUse("web-db", 5, 7, 9, 2))
    assert store.rule_use("z") == ()
    assert store.rules_hit("web1") == {"web-db", "z"}
    assert store.rules_hit("nobody") == frozenset()


def test_a_host_that_is_enrolled_anew_counts_on_top(store: Store) -> None:
    store.add_batch(Batch("web1", "e", 1, NOW, hits=(hit(count=100, at=70),)))
    for _ in range(2):
        join(store, "web1")
    assert store.rule_use("") == (RuleUse("web-db", 100, 0, 70, 1),)
    store.add_batch(Batch("web1", "f", 1, NOW, hits=(hit(count=2, at=80),)))
    assert store.rule_use("") == (RuleUse("web-db", 102, 0, 80, 1),)


def test_a_removed_host_takes_its_hits_along(store: Store) -> None:
    store.add_batch(Batch("web1", "e", 1, NOW, hits=(hit(),)))
    store.remove_host("web1", ENTRY)
    assert store.rule_use("") == ()
    join(store, "web1")
    store.add_batch(Batch("web1", "e", 1, NOW, hits=(hit(count=3),)))
    assert store.rule_use("") == (RuleUse("web-db", 3, 0, 7, 1),)
