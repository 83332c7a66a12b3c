"""Flows that were kept by the hour in SQLite are taken over once, also when that is interrupted."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from segctl_controller.flowstore import importing
from segctl_controller.flowstore.importing import import_hours
from segctl_controller.flowstore.records import HOUR_US, FlowFilter, FlowReport
from segctl_controller.flowstore.store import SqlFlowStore, flow_store_on
from segctl_controller.store.sql import SqlStore

from tests.flowrows import NOW, KnownEnds, addresses, flow, key, report


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "controller.db"
    SqlStore(path).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        for host in ("web1", "db1"):
            connection.execute(
                "INSERT INTO hosts (name, tags, networks, addresses, serial, enrolled_us, last_seen_us, agent_version,"
                " facts) VALUES (?, '', '', '', '', 0, 0, '', '')",
                (host,),
            )
        for host, hour, port, flows in (
            ("web1", 0, 5432, 3),
            ("web1", 1, 5432, 4),
            ("web1", 1, 80, 1),
            ("db1", 0, 22, 9),
        ):
            at = NOW - hour * HOUR_US
            connection.execute(
                "INSERT INTO flows (hour_us, host, remote, port, protocol, ingress, workload, rule, verdict, flows,"
                " bytes_sent, bytes_received, first_us, last_us)"
                " VALUES (?, ?, ?, ?, 6, 0, 'shop-web', 'web-db', 0, ?, 10, 20, ?, ?)",
                (at, host, key().remote, port, flows, at + 1, at + 7),
            )
        connection.execute("INSERT INTO flow_losses VALUES (?, 'db1', 5)", (NOW,))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlFlowStore]:
    made = flow_store_on(tmp_path / "flows.duckdb", KnownEnds({"db1": "role=db"}, addresses({"10.0.0.2": "db1"})))
    yield made
    made.close()


def found(store: SqlFlowStore) -> dict[tuple[str, int], int]:
    return {(row.key.host, row.key.port): row.flows for row in store.flows(FlowFilter())}


ALL = {("web1", 5432): 7, ("web1", 80): 1, ("db1", 22): 9}


def test_every_row_is_taken_over_and_then_removed(old: Path, store: SqlFlowStore) -> None:
    assert import_hours(old, store) == 4
    assert (found(store), store.lost("db1", 0)) == (ALL, 5)
    [row] = store.flows(FlowFilter(port=80))
    assert (row.peer, row.first_us, row.last_us, row.bytes_sent) == ("db1", NOW - HOUR_US + 1, NOW - HOUR_US + 7, 10)
    assert import_hours(old, store) == 0
    assert found(store) == ALL


def test_one_that_was_interrupted_goes_on(old: Path, store: SqlFlowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "AT_ONCE", 1)

    class InterruptedImportError(Exception):
        pass

    class Dying:
        """A store whose process ends after two commits."""

        commits = 0

        def add(self, reports: list[FlowReport]) -> tuple[bool, ...]:
            if self.commits == 2:
                raise InterruptedImportError
            self.commits += 1
            return store.add(reports)

    with pytest.raises(InterruptedImportError):
        import_hours(old, Dying())  # type: ignore[arg-type]
    assert 0 < len(found(store)) < 3
    import_hours(old, store)
    assert (found(store), store.lost("db1", 0)) == (ALL, 5)


def test_agents_report_on_after_it(old: Path, store: SqlFlowStore) -> None:
    import_hours(old, store)
    assert store.add([report(1, flow(key(port=80)))]) == (True,)
    assert found(store)["web1", 80] == 2
