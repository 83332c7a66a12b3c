"""The contract of Store for flows and hits, for the stores on SQLite, on PostgreSQL and in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from segctl.model.policy import Tags
from segctl_controller.store.protocol import FindHost, Store
from segctl_controller.store.records import (
    Batch,
    Entry,
    FarEnd,
    FlowFilter,
    FlowKey,
    FlowRecord,
    FlowVerdict,
    HitRecord,
    HostRecord,
    Limits,
    RuleUse,
    TokenRecord,
)

from tests.contract.stores import make_store

LIMITS = Limits(flows=10, flow_days=30)
HOUR = 3_600_000_000
DAY = 24 * HOUR
NOW = 500_000 * HOUR
ENTRY = Entry(1, "root", "act", "subject")
SECRET = hashlib.sha256(b"secret").digest()
TOKEN = TokenRecord("t-1", SECRET, Tags(), "", 9, NOW, False, "root")


def mapped(text: str) -> bytes:
    return b"\0" * 10 + b"\xff\xff" + ip_address(text).packed


def key(host: str = "web1", port: int = 5432, **fields: object) -> FlowKey:
    made = FlowKey(host, "shop-web", False, mapped("10.0.0.2"), 6, port, "web-db", FlowVerdict.ALLOWED)
    return replace(made, **fields)  # type: ignore[arg-type]


def flow(of: FlowKey | None = None, at: int = NOW, flows: int = 1, sent: int = 10) -> FlowRecord:
    return FlowRecord(of or key(), flows, sent, 2 * sent, at - 5, at)


def hit(host: str = "web1", rule: str = "web-db", count: int = 1, *, ingress: bool = False, at: int = 7) -> HitRecord:
    return HitRecord(host, rule, ingress, count, at)


def join(store: Store, name: str) -> None:
    def admit(found: TokenRecord, _find: FindHost) -> HostRecord:
        return HostRecord(name, found.tags, "aa", 50)

    store.enrol(SECRET, 50, admit, lambda _host: ENTRY)


@pytest.fixture(params=["sqlite", "postgres", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = make_store(request, tmp_path, LIMITS)
    made.add_token(TOKEN, ENTRY)
    join(made, "web1")
    join(made, "db1")
    yield made
    made.close()


def told(store: Store, sequence: int, *flows: FlowRecord, host: str = "web1", at: int = NOW, lost: int = 0) -> None:
    assert store.add_batch(Batch(host, "e", sequence, at, flows=flows, flows_lost=lost)) == ()


def test_flows_of_one_key_add_up_within_an_hour_and_over_hours(store: Store) -> None:
    told(store, 1, flow(), flow(at=NOW + 9), flow(at=NOW - HOUR, flows=3))
    [row] = store.flows(FlowFilter())
    assert row == FlowRecord(key(), 5, 30, 60, NOW - HOUR - 5, NOW + 9)
    assert [type(n) for n in (row.flows, row.bytes_sent, row.bytes_received)] == [int] * 3
    [recent] = store.flows(FlowFilter(since_us=NOW))
    assert recent == FlowRecord(key(), 2, 20, 40, NOW - 5, NOW + 9)


@pytest.mark.parametrize(
    "other",
    [
        key(ingress=True),
        key(workload="host"),
        key(remote=ip_address("2001:db8::1").packed),
        key(protocol=17),
        key(port=80),
        key(rule=""),
        key(verdict=FlowVerdict.OBSERVED),
    ],
)
def test_what_differs_is_a_row_of_its_own(store: Store, other: FlowKey) -> None:
    told(store, 1, flow(), flow(other, at=NOW + 1))
    assert [row.key for row in store.flows(FlowFilter())] == [key(), other]


def test_flows_are_filtered_and_the_newest_come_last(store: Store) -> None:
    told(store, 1, *(flow(key(port=n), at=NOW + n) for n in (3, 1, 2)))
    told(store, 1, flow(key("db1", ingress=True, workload="shop-db", rule=""), at=NOW), host="db1")
    assert [row.key.port for row in store.flows(FlowFilter(limit=2))] == [2, 3]
    assert [row.key.host for row in store.flows(FlowFilter(host="db1"))] == ["db1"]
    assert [row.key.workload for row in store.flows(FlowFilter(workload="shop-db"))] == ["shop-db"]
    assert [row.key.port for row in store.flows(FlowFilter(rule="web-db"))] == [1, 2, 3]
    assert [row.key.port for row in store.flows(FlowFilter(since_us=NOW + 2))] == [2, 3]
    assert store.flows(FlowFilter(host="nobody")) == ()


def test_a_batch_with_flows_and_hits_is_stored_once(store: Store) -> None:
    batch = Batch("web1", "e", 1, NOW, flows=(flow(),), flows_lost=4, hits=(hit(count=2),))
    assert store.add_batch(batch) == ()
    assert store.add_batch(batch) is None
    assert [row.flows for row in store.flows(FlowFilter())] == [1]
    assert store.flows_lost("web1", 0) == 4
    assert store.rule_use("") == (RuleUse("web-db", 2, 0, 7, 1),)


def test_flows_end_with_their_age_by_the_next_report_of_anybody(store: Store) -> None:
    told(store, 1, flow(at=NOW), lost=3)
    told(store, 1, host="db1", at=NOW + 30 * DAY)
    assert len(store.flows(FlowFilter())) == 1
    told(store, 2, host="db1", at=NOW + 30 * DAY + HOUR)
    assert store.flows(FlowFilter()) == ()
    assert store.flows_lost("", 0) == 0


def test_a_host_that_floods_loses_its_own_oldest_hours_and_they_are_counted(store: Store) -> None:
    told(store, 1, flow(key("db1"), at=NOW - 9 * HOUR), host="db1")
    told(store, 1, *(flow(key(port=n), at=NOW - 2 * HOUR) for n in range(5)))
    told(store, 2, *(flow(key(port=n), at=NOW - HOUR, flows=2) for n in range(4)))
    assert len(store.flows(FlowFilter())) == 6
    told(store, 3, flow(key(port=99)))
    assert store.flows_lost("", 0) == 5
    assert store.flows_lost("web1", NOW - HOUR) == 0
    assert store.flows_lost("db1", 0) == 0
    assert [row.key.host for row in store.flows(FlowFilter())] == ["db1", *["web1"] * 5]


def test_flow_counts_stop_before_they_overflow(store: Store) -> None:
    large = replace(flow(), flows=2**53, bytes_sent=2**53, bytes_received=2**53)
    told(store, 1, large, large, replace(large, last_us=NOW - HOUR), lost=2**53)
    told(store, 2, lost=2**53)
    [row] = store.flows(FlowFilter())
    assert (row.flows, row.bytes_sent, row.bytes_received) == (2**53, 2**53, 2**53)
    assert store.flows_lost("", 0) == 2**53


def test_the_other_end_is_found_where_it_told_of_one_workload(store: Store) -> None:
    there = key("db1", ingress=True, workload="shop-db", remote=mapped("10.0.0.1"), rule="")
    told(store, 1, flow(there, at=NOW - HOUR), host="db1")
    asked = FarEnd("db1", True, (mapped("10.0.0.9"), mapped("10.0.0.1")), 6, 5432, NOW)
    others = (
        replace(asked, host="web1"),
        replace(asked, ingress=False),
        replace(asked, remotes=(mapped("10.0.0.9"),)),
        replace(asked, protocol=17),
        replace(asked, port=80),
        replace(asked, last_us=NOW + HOUR),
    )
    assert store.far_ends((asked, *others)) == ("shop-db", *[""] * 6)
    told(store, 2, flow(replace(there, workload="host"), at=NOW), host="db1")
    assert store.far_ends((asked,)) == ("",)


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
    store.add_batch(Batch("web1", "e", 1, NOW, hits=(hit(count=100, at=70),), flows=(flow(),)))
    for _ in range(2):
        join(store, "web1")
    assert store.flows(FlowFilter()) == ()
    assert store.rule_use("") == (RuleUse("web-db", 100, 0, 70, 1),)
    store.add_batch(Batch("web1", "f", 1, NOW, hits=(hit(count=2, at=80),)))
    assert store.rule_use("") == (RuleUse("web-db", 102, 0, 80, 1),)


def test_a_removed_host_takes_its_flows_and_hits_along(store: Store) -> None:
    store.add_batch(Batch("web1", "e", 1, NOW, flows=(flow(),), flows_lost=1, hits=(hit(),)))
    store.remove_host("web1", ENTRY)
    assert (store.flows(FlowFilter()), store.flows_lost("", 0), store.rule_use("")) == ((), 0, ())
    join(store, "web1")
    store.add_batch(Batch("web1", "e", 1, NOW, hits=(hit(count=3),)))
    assert store.rule_use("") == (RuleUse("web-db", 3, 0, 7, 1),)
