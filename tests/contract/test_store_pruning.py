"""What the store of reports keeps is bounded, and that does not make every report dearer the more there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from segctl_controller.store.protocol import Store
from segctl_controller.store.records import Batch, DenialFilter, DenialRecord, EventRecord, HostRecord, Limits
from sqlalchemy import Engine, event

from tests.contract.stores import make_store
from tests.contract.test_store import ENTRY, join, token

KEEP = 300
LIMITS = Limits(denials=KEEP, events=KEEP, proofs=3)


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = make_store(request, tmp_path, LIMITS)
    made.add_token(token(uses=50), ENTRY)
    yield made
    made.close()


@contextmanager
def statements() -> Iterator[list[str]]:
    """Those that are made meanwhile."""
    made: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        made.append(" ".join(statement.split()))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield made
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def looks_at(made: list[str], table: str) -> int:
    """How often all rows of the table were counted."""
    return sum(f"count(*) AS count_1 FROM {table}" in statement for statement in made)


def report(store: Store, host: HostRecord, numbers: range) -> None:
    with store.batch():
        for number in numbers:
            denial = DenialRecord(host.name, "host", str(number), 1, number, number, b"body")
            store.add_batch(Batch(host.name, "e", number, number, (denial,)))


def test_denials_are_counted_once_in_a_hundredth_of_what_is_kept(store: Store) -> None:
    one, two = join(store, "web1"), join(store, "web2")
    report(store, two, range(1, 11))
    with statements() as made:
        report(store, one, range(1, KEEP + 51))
    kept = store.denials(DenialFilter(limit=KEEP * 2))
    assert KEEP <= len(kept) <= KEEP + KEEP // 100
    assert [row.last_us for row in kept if row.host == "web2"] == [*range(1, 11)]  # who floods loses its own
    assert max(row.last_us for row in kept) == KEEP + 50
    assert 0 < looks_at(made, "denials") <= (KEEP + 50) // (KEEP // 100) + 1


def test_events_are_counted_once_in_a_hundredth_of_what_is_kept(store: Store) -> None:
    with statements() as made, store.batch():
        for number in range(1, KEEP + 51):
            store.add_event(EventRecord("web1", "tamper", str(number), number, 7, "nft"), ENTRY)
    kept = store.events(KEEP * 2)
    assert KEEP <= len(kept) <= KEEP + KEEP // 100
    assert kept[0].at_us == KEEP + 50
    assert 0 < looks_at(made, "events") <= (KEEP + 50) // (KEEP // 100) + 1


def test_of_hosts_with_as_many_rows_none_loses_them_all(store: Store) -> None:
    hosts = [join(store, f"web{number}") for number in range(50)]
    for host in hosts:
        report(store, host, range(1, KEEP // 50 + 1))
    for host in hosts[:40]:
        report(store, host, range(100, 101))
    kept = [row.host for row in store.denials(DenialFilter(limit=KEEP * 2))]
    assert {kept.count(host.name) for host in hosts} <= {KEEP // 50, KEEP // 50 + 1}
