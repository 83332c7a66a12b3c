"""The contract of FlowStore, on DuckDB and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from segctl_controller.flowstore.claiming import Claims
from segctl_controller.flowstore.outside import Ranges, block_of
from segctl_controller.flowstore.protocol import FlowStore
from segctl_controller.flowstore.records import (
    DAY_US,
    DAYS,
    HOUR_US,
    MINUTE_US,
    DraftRow,
    EndFilter,
    FarEnd,
    FlowFilter,
    FlowKey,
    FlowLimits,
    FlowRecord,
    FlowVerdict,
    MapFilter,
    MapRow,
    Observation,
    ObservedEnd,
    OtherEnd,
    ProcessRow,
    Talker,
    UseRow,
)
from segctl_controller.flowstore.stamping import NAMES_A_HOST, PROCESSES_A_HOST
from segctl_controller.flowstore.store import flow_store_on
from segctl_controller.flowstore.tables import meta, rule_days
from segctl_controller.store.conninfo import Conninfo, parse_conninfo
from sqlalchemy import delete, text, update

from tests.flowrows import NOW, KnownEnds, addresses, flow, key, mapped, report
from tests.postgres import Server
from tests.unit.segctl.suggest.observing import policy_of

LIMITS = FlowLimits(rows=10, days=30)


@pytest.fixture
def ends() -> KnownEnds:
    return KnownEnds(
        {"web1": "app=shop,role=web", "db1": "app=shop,role=db"},
        addresses({"10.0.0.1": "web1", "10.0.0.2": "db1"}),
        {("db1", 6, 5432): "shop-db"},
    )


def empty_database(server: Server) -> Conninfo:
    """Without flows; the state of a fleet has its tables there, too."""
    return parse_conninfo(server.conninfo(server.database()), server.directory)


@pytest.fixture(params=["duckdb", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | Conninfo:
    if request.param == "duckdb":
        return tmp_path / "flows.duckdb"
    return empty_database(request.getfixturevalue("postgres_server"))


@pytest.fixture
def store(where: Path | Conninfo, ends: KnownEnds) -> Iterator[FlowStore]:
    made = flow_store_on(where, ends, LIMITS)
    yield made
    made.close()


def told(store: FlowStore, sequence: int, *flows: FlowRecord, **fields: object) -> None:
    assert store.add([report(sequence, *flows, **fields)]) == (True,)  # type: ignore[arg-type]


def bare(rows: tuple[FlowRecord, ...]) -> list[FlowRecord]:
    """Without the peers."""
    return [replace(row, peer="", peer_workload="") for row in rows]


def test_flows_of_one_key_add_up_over_minutes_and_hours(store: FlowStore) -> None:
    told(store, 1, flow(), flow(at=NOW + 9), flow(at=NOW - HOUR_US, flows=3))
    [row] = store.flows(FlowFilter())
    assert row == replace(FlowRecord(key(), 5, 30, 60, NOW - HOUR_US - 5, NOW + 9), peer="db1", peer_workload="shop-db")
    assert [type(n) for n in (row.flows, row.bytes_sent, row.bytes_received)] == [int] * 3
    assert bare(store.flows(FlowFilter(since_us=NOW))) == [FlowRecord(key(), 2, 20, 40, NOW - 5, NOW + 9)]
    assert bare(store.flows(FlowFilter(until_us=NOW - 6))) == [
        FlowRecord(key(), 3, 10, 20, NOW - HOUR_US - 5, NOW - HOUR_US)
    ]


@pytest.mark.parametrize(
    "other",
    [
        key(ingress=True),
        key(workload="host"),
        key(remote=ip_address("2001:db8::1").packed),
        key(remote=ip_address("fe80::").packed),
        key(protocol=17),
        key(port=80),
        key(rule=""),
        key(verdict=FlowVerdict.OBSERVED),
        key(process="unit:nginx.service"),
    ],
)
def test_what_differs_is_a_row_of_its_own(store: FlowStore, other: FlowKey) -> None:
    told(store, 1, flow(), flow(other, at=NOW + 1))
    assert [row.key for row in store.flows(FlowFilter())] == [key(), other]


def test_flows_are_filtered_and_the_newest_come_last(store: FlowStore) -> None:
    told(store, 1, *(flow(key(port=n), at=NOW + n) for n in (3, 1, 2)))
    denied = key("db1", ingress=True, workload="shop-db", rule="", protocol=17, verdict=FlowVerdict.WOULD_DENY)
    told(store, 1, flow(denied), host="db1")
    assert [row.key.port for row in store.flows(FlowFilter(limit=2))] == [2, 3]
    assert [row.key.port for row in store.flows(FlowFilter(rule="web-db"))] == [1, 2, 3]
    assert [row.key.port for row in store.flows(FlowFilter(since_us=NOW + 2))] == [2, 3]
    assert [row.key.port for row in store.flows(FlowFilter(port=2))] == [2]
    for wanted in (
        FlowFilter(host="db1"),
        FlowFilter(workload="shop-db"),
        FlowFilter(protocol=17),
        FlowFilter(verdict=FlowVerdict.WOULD_DENY),
    ):
        assert [row.key for row in store.flows(wanted)] == [denied]
    assert store.flows(FlowFilter(host="nobody")) == ()


@pytest.mark.parametrize(
    ("network", "found"),
    [
        ("10.0.0.2/32", ["10.0.0.2"]),
        ("10.0.0.0/8", ["10.0.0.2", "10.255.255.255"]),
        ("0.0.0.0/0", ["10.0.0.2", "10.255.255.255", "200.0.0.1"]),
        ("2001:db8::/64", ["2001:db8::1", "2001:db8::ffff:0:0:1"]),
        ("2001:db8::/112", ["2001:db8::1"]),
        ("2001:db8::/32", ["2001:db8::1", "2001:db8::ffff:0:0:1", "2001:db8:1::1"]),
        ("fe80::/10", ["fe80::1"]),
        ("::/0", None),
    ],
)
def test_addresses_are_found_by_network(store: FlowStore, network: str, found: list[str] | None) -> None:
    every = [
        "10.0.0.2",
        "10.255.255.255",
        "200.0.0.1",
        "2001:db8::1",
        "2001:db8::ffff:0:0:1",
        "2001:db8:1::1",
        "fe80::1",
    ]
    packed = [mapped(a) if "." in a else ip_address(a).packed for a in every]
    told(store, 1, *(flow(key(remote=remote), at=NOW + n) for n, remote in enumerate(packed)))
    net = ip_network(network)
    low, high = ((mapped(str(a)) if a.version == 4 else a.packed) for a in (net[0], net[-1]))
    rows = [row.key.remote for row in store.flows(FlowFilter(low=low, high=high))]
    assert rows == [remote for text, remote in zip(every, packed, strict=True) if found is None or text in found]


def test_a_report_is_stored_once(store: FlowStore) -> None:
    first = report(1, flow(), lost=4)
    assert store.add([first]) == (True,)
    assert store.add([first, report(2, flow()), report(2, flow()), first]) == (False, True, False, False)
    assert store.add([report(1, flow(), epoch="f")]) == (True,)
    assert [row.flows for row in store.flows(FlowFilter())] == [3]
    assert store.lost("web1", 0) == 4


def test_what_is_stored_is_there_after_a_restart(where: Path | Conninfo, ends: KnownEnds) -> None:
    for stored in (True, False):
        store = flow_store_on(where, ends, LIMITS)
        assert store.add([report(7, flow(), lost=2)]) == (stored,)
        assert ([row.flows for row in store.flows(FlowFilter())], store.lost("", 0)) == ([1], 2)
        store.close()


def test_many_hosts_are_stored_at_once(store: FlowStore) -> None:
    hosts = [f"h{n}" for n in range(50)]
    assert store.add([report(1, flow(key(host)), host=host, lost=1) for host in hosts]) == (True,) * 50
    assert sorted(row.key.host for row in store.flows(FlowFilter())) == sorted(hosts)
    assert store.lost("", 0) == 50


def test_a_report_without_flows_moves_its_host_on(store: FlowStore) -> None:
    told(store, 1, lost=1)
    assert store.add([report(1, flow())]) == (False,)
    assert store.flows(FlowFilter()) == ()


def test_flows_end_with_their_age(store: FlowStore) -> None:
    told(store, 1, flow(), lost=3)
    store.keep(NOW + 30 * DAY_US)
    assert (len(store.flows(FlowFilter())), store.lost("", 0)) == (1, 3)
    store.keep(NOW + 30 * DAY_US + HOUR_US)
    assert (store.flows(FlowFilter()), store.lost("", 0)) == ((), 0)


def test_a_host_that_floods_loses_its_own_oldest_hours_and_they_are_counted(store: FlowStore) -> None:
    told(store, 1, flow(key("db1"), at=NOW - 9 * HOUR_US), host="db1")
    told(store, 1, *(flow(key(port=n), at=NOW - 2 * HOUR_US) for n in range(5)))
    told(store, 2, *(flow(key(port=n), at=NOW - HOUR_US, flows=2) for n in range(4)))
    store.keep(NOW)
    assert len(store.flows(FlowFilter())) == 6
    assert store.lost("", 0) == 0
    told(store, 3, flow(key(port=99)))
    assert store.due
    store.keep(NOW)
    assert store.lost("", 0) == 5
    assert store.lost("web1", NOW - HOUR_US) == 0
    assert store.lost("db1", 0) == 0
    assert [row.key.host for row in store.flows(FlowFilter())] == ["db1", *["web1"] * 5]
    assert not store.due


def test_rows_become_minutes_and_then_hours_and_add_up_to_the_same(store: FlowStore) -> None:
    told(store, 1, *(flow(key(), at=NOW + n * MINUTE_US + s, flows=n + 1) for n in range(3) for s in (6, 7)))
    told(store, 2, flow(key(port=80), at=NOW + 6))
    before = store.flows(FlowFilter())
    assert store.size().rows == 7
    store.keep(NOW + 5 * MINUTE_US)
    assert (store.size().rows, store.flows(FlowFilter())) == (4, before)
    store.keep(NOW + HOUR_US + 24 * HOUR_US - 1)
    assert store.size().rows == 4
    store.keep(NOW + HOUR_US + 24 * HOUR_US)
    assert (store.size().rows, store.flows(FlowFilter())) == (2, before)
    assert bare(store.flows(FlowFilter(port=80, since_us=NOW + 6))) == [flow(key(port=80), at=NOW + 6)]
    told(store, 3, flow(key(port=80), at=NOW + 7))  # that late is a host that was cut off
    store.keep(NOW + HOUR_US + 24 * HOUR_US)
    assert [row.flows for row in store.flows(FlowFilter(port=80))] == [2]


def test_flow_counts_stop_before_they_overflow(store: FlowStore) -> None:
    large = replace(flow(), flows=2**53, bytes_sent=2**53, bytes_received=2**53)
    told(store, 1, large, large, replace(large, last_us=NOW - HOUR_US), lost=2**53)
    told(store, 2, lost=2**53)
    for _ in range(2):
        [row] = store.flows(FlowFilter())
        assert (row.flows, row.bytes_sent, row.bytes_received) == (2**53, 2**53, 2**53)
        assert store.lost("", 0) == 2**53
        store.keep(NOW + 2 * DAY_US)


def test_the_other_end_is_found_where_it_told_of_one_workload_and_process(store: FlowStore) -> None:
    there = key("db1", ingress=True, workload="shop-db", remote=mapped("10.0.0.1"), rule="")
    told(store, 1, flow(there, at=NOW - HOUR_US), host="db1")
    asked = FarEnd("db1", True, (mapped("10.0.0.9"), mapped("10.0.0.1")), 6, 5432, NOW)
    others = (
        replace(asked, host="web1"),
        replace(asked, ingress=False),
        replace(asked, remotes=(mapped("10.0.0.9"),)),
        replace(asked, protocol=17),
        replace(asked, port=80),
        replace(asked, last_us=NOW + HOUR_US),
    )
    assert store.far_ends((asked, *others)) == (OtherEnd("shop-db"), *[OtherEnd()] * 6)
    told(store, 2, flow(replace(there, process="unit:pg.service"), at=NOW), host="db1")
    assert store.far_ends((asked,)) == (OtherEnd("shop-db", "unit:pg.service"),)
    told(store, 3, flow(replace(there, workload="host", process="exe:/usr/bin/nc"), at=NOW), host="db1")
    assert store.far_ends((asked,)) == (OtherEnd(),)


def test_a_host_that_left_takes_its_flows_along_and_may_begin_anew(store: FlowStore) -> None:
    told(store, 1, flow(), lost=1)
    told(store, 1, flow(key("db1")), host="db1")
    store.forget("web1")
    store.forget("nobody")
    assert [row.key.host for row in store.flows(FlowFilter())] == ["db1"]
    assert store.lost("", 0) == 0
    told(store, 1, flow())


def test_tags_and_peers_are_those_of_the_time_of_the_flow(store: FlowStore, ends: KnownEnds) -> None:
    told(store, 1, flow())
    ends.tags_of["web1"], ends.holders, ends.revision = "app=blog,role=web", addresses({"10.0.0.2": "db2"}), 1
    told(store, 2, flow(at=NOW + 1))
    old, new = store.flows(FlowFilter())
    assert ((old.peer, old.peer_workload), (new.peer, new.peer_workload)) == (("db1", "shop-db"), ("db2", ""))
    shown = {(row.tags, row.peer_tags) for row in store.map(MapFilter(10))}
    assert shown == {("app=shop,role=web", "app=shop,role=db"), ("app=blog,role=web", "")}


def test_the_map_is_between_tag_groups_workloads_and_ports(store: FlowStore) -> None:
    outside = mapped("203.0.113.9")
    told(
        store, 1, flow(flows=3), flow(key(verdict=FlowVerdict.OBSERVED, rule=""), at=NOW + 5), flow(key(remote=outside))
    )
    told(store, 1, flow(key("db1", ingress=True, remote=mapped("10.0.0.1")), flows=4), host="db1")
    web, db = "app=shop,role=web", "app=shop,role=db"
    anywhere = Ranges().first(0)
    assert set(store.map(MapFilter(10, NOW))) == {
        MapRow(web, "shop-web", False, db, "shop-db", b"", 6, 5432, 4, 0, 1, 4, 60, NOW + 5),
        MapRow(web, "shop-web", False, None, "", anywhere, 6, 5432, 1, 0, 0, 1, 30, NOW),
        MapRow(db, "shop-web", True, web, "", b"", 6, 5432, 4, 0, 0, 4, 30, NOW),
    }
    assert len(store.map(MapFilter(2, NOW))) == 2
    whole = {(row.tags, row.peer_tags, row.ingress, row.flows) for row in store.map(MapFilter(10, keys=["app", "env"]))}
    assert whole == {
        ("app=shop", "app=shop", False, 4),
        ("app=shop", None, False, 1),
        ("app=shop", "app=shop", True, 4),
    }
    assert {(row.tags, row.peer_tags) for row in store.map(MapFilter(10, keys=[]))} == {("", ""), ("", None)}
    assert store.map(MapFilter(10, NOW + HOUR_US)) == ()
    assert store.map(MapFilter(10, 0, NOW - HOUR_US)) == ()


def test_the_map_tells_new_flows_spans_and_hosts_apart(store: FlowStore, ends: KnownEnds) -> None:
    ends.tags_of["web2"] = ends.tags_of["web1"]
    told(store, 1, flow(flows=3, at=NOW - 2 * HOUR_US), flow(flows=2, at=NOW + 9))
    told(store, 1, flow(key("web2"), at=NOW), host="web2")
    [row] = store.map(MapFilter(10, fresh_us=NOW))
    assert (row.flows, row.fresh) == (6, 2)
    spans = store.map(MapFilter(10, span_us=HOUR_US))
    assert {(row.span_us, row.flows) for row in spans} == {(NOW - 2 * HOUR_US, 3), (NOW, 3)}
    hosts = store.map(MapFilter(10, hosts=True))
    assert {(row.host, row.peer, row.flows) for row in hosts} == {("web1", "db1", 5), ("web2", "db1", 1)}
    told(store, 2, flow(key(process="unit:nginx.service"), at=NOW + 9))
    processes = store.map(MapFilter(10, processes=True))
    assert {(row.process, row.flows) for row in processes} == {("", 6), ("unit:nginx.service", 1)}
    assert [row.flows for row in store.map(MapFilter(10, source=EndFilter(process="unit:nginx.service")))] == [1]


OUTSIDE = ["10.9.0.1", "203.0.113.9", "203.0.113.200", "203.0.114.1", "2001:db8::1", "2001:db8:0:1::1", "fe80::1"]


def test_addresses_outside_are_told_apart_where_the_policy_does(store: FlowStore) -> None:
    remotes = [mapped(a) if "." in a else ip_address(a).packed for a in OUTSIDE]
    told(store, 1, *(flow(key(remote=remote), flows=1 + n) for n, remote in enumerate(remotes)))
    networks = [ip_network(n) for n in ("203.0.113.0/24", "203.0.113.128/25", "2001:db8::/48", "fe80::/10", "::/0")]
    ranges = Ranges.of(networks)
    found = store.map(MapFilter(10, starts=ranges.starts))
    assert {(ranges.at(row.remote), row.flows) for row in found} == {
        (ranges.at(remotes[0]), 1),
        (ranges.at(remotes[1]), 2),
        (ranges.at(remotes[2]), 3),
        (ranges.at(remotes[3]), 4),
        (ranges.at(remotes[4]), 5 + 6),
        (ranges.at(remotes[6]), 7),
    }
    assert {row.remote: row.flows for row in store.map(MapFilter(10))} == {Ranges().first(0): 28}
    blocks = {
        str(block_of(row.block)): row.flows for row in store.map(MapFilter(10, starts=ranges.starts, blocks=True))
    }
    assert blocks["2001:db8::/48"] == 11
    assert sorted(blocks) == ["10.9.0.0/24", "2001:db8::/48", "203.0.113.0/24", "203.0.114.0/24", "fe80::/48"]
    of_128 = EndFilter(outside=True, places=frozenset(ranges.within(networks[1])))
    assert [row.flows for row in store.map(MapFilter(10, starts=ranges.starts, destination=of_128))] == [3]
    block = EndFilter(outside=True, block=(mapped("203.0.113.0"), mapped("203.0.113.255")))
    assert sum(row.flows for row in store.map(MapFilter(10, blocks=True, destination=block))) == 5


def test_the_map_is_narrowed_to_the_ends_of_an_edge(store: FlowStore) -> None:
    told(store, 1, flow(flows=2), flow(key(port=80, workload="host"), flows=3), flow(key(remote=mapped("8.8.8.8"))))
    there = key("db1", ingress=True, workload="shop-db", remote=mapped("10.0.0.1"))
    told(store, 1, flow(there, flows=5), host="db1")

    def found(**wanted: object) -> list[int]:
        return sorted(row.flows for row in store.map(MapFilter(10, **wanted)))  # type: ignore[arg-type]

    web, db, out = EndFilter((("role", "web"),)), EndFilter((("role", "db"),)), EndFilter(outside=True)
    assert found(source=web) == [1, 2, 3, 5]
    assert found(source=web, destination=db) == [2, 3, 5]
    assert found(source=db) == found(destination=web) == found(source=out) == []
    assert found(destination=out) == [1]
    assert found(source=EndFilter((("role", "web"), ("app", "blog")))) == []
    assert found(source=EndFilter((("role", "web"), ("zone", "")))) == found(source=EndFilter((("zone", ""),)))
    assert found(source=EndFilter((("zone", ""),))) == [1, 2, 3, 5]  # none of them has it
    assert found(source=EndFilter((("role", ""),))) == []
    assert found(destination=db, protocol=6, port=80) == [3]
    assert found(destination=EndFilter(host="db1")) == [2, 3, 5]
    assert found(source=EndFilter(host="db1")) == []
    assert found(source=EndFilter(workload="host")) == [3, 5]  # who called is not known where it was told by db1
    assert found(destination=EndFilter(workload="shop-db")) == [2, 3, 5]
    assert found(source=EndFilter(host="nobody")) == []


def test_those_who_talk_most_come_first(store: FlowStore) -> None:
    told(store, 1, flow(sent=10), flow(key(port=80), sent=5), flow(key(workload="host"), sent=90))
    told(store, 1, flow(key("db1", workload="shop-db"), sent=40), host="db1")
    assert store.talkers(0, 0, 2) == (
        Talker("web1", "host", 1, 90, 180, NOW),
        Talker("db1", "shop-db", 1, 40, 80, NOW),
    )
    assert store.talkers(0, 0, 9)[2] == Talker("web1", "shop-web", 2, 15, 30, NOW)


def test_what_a_policy_judges_alike_is_one_row_with_an_example(store: FlowStore, ends: KnownEnds) -> None:
    ends.tags_of["web2"] = ends.tags_of["web1"]
    outside = mapped("203.0.113.9")
    told(
        store, 1, flow(flows=2), flow(key(rule="")), flow(key(remote=outside)), flow(key(remote=mapped("203.0.113.8")))
    )
    told(store, 1, flow(key("web2"), at=NOW + 1), host="web2")
    web, db = "app=shop,role=web", "app=shop,role=db"
    first, *others = store.judged_alike(0, 0, 10)
    assert replace(first, host="") == DraftRow(web, "shop-web", False, db, b"", 6, 5432, 4, NOW + 1, "", "db1")
    assert first.host in ("web1", "web2")
    assert store.judged_alike(0, 0, 10, ["role"])[0].tags == "role=web"
    assert not store.judged_alike(NOW + DAY_US, 0, 10)
    assert {(row.peer_tags, row.remote, row.peer) for row in others} == {
        (None, outside, ""),
        (None, mapped("203.0.113.8"), ""),
    }


def test_one_host_brings_up_so_many_names_and_no_more(store: FlowStore) -> None:
    many = [flow(key(rule=f"r{n}")) for n in range(NAMES_A_HOST)]
    told(store, 1, *many)
    assert store.lost("web1", 0) == len(many)  # with its workload that is one name too many
    told(store, 2, *(flow(key(rule=f"s{n}"), flows=2**53) for n in range(NAMES_A_HOST + 1)))
    assert store.lost("web1", 0) == 2**53
    told(store, 3, flow(key(rule="r1")))
    told(store, 1, flow(key("db1", rule="r2")), host="db1")
    told(store, 4, flow(key(rule="r2")))
    assert {(row.key.host, row.key.rule) for row in store.flows(FlowFilter())} == {
        ("web1", "r1"),
        ("web1", "r2"),
        ("db1", "r2"),
    }


def test_flows_are_found_by_what_their_process_is_called(store: FlowStore) -> None:
    nginx, psql = "unit:nginx.service", "exe:/usr/bin/psql"
    told(store, 1, flow(key(process=nginx)), flow(key(process=psql)), flow())
    for called, found in (
        ("nginx", [nginx]),
        ("nginx.service", [nginx]),
        ("unit:nginx.service", [nginx]),
        ("psql", [psql]),
        ("/usr/bin/*", [psql]),
        ("[np]*", [psql, nginx]),
        ("web1", []),
        ("shop-web", []),
    ):
        assert sorted(row.key.process for row in store.flows(FlowFilter(process=called))) == sorted(found), called


def test_one_host_brings_up_so_many_processes_and_further_ones_are_unknown(store: FlowStore) -> None:
    told(store, 1, *(flow(key(process=f"exe:/x/{n}")) for n in range(PROCESSES_A_HOST)))
    told(store, 2, flow(key(port=80, process="exe:/y"), flows=3), flow(key(port=81, process="exe:/x/1")))
    assert [(r.flows, r.key.process) for r in store.flows(FlowFilter(port=80))] == [(3, "")]
    assert [(r.flows, r.key.process) for r in store.flows(FlowFilter(port=81))] == [(1, "exe:/x/1")]
    assert store.lost("web1", 0) == 0


WEB, DB = "app=shop,role=web", "app=shop,role=db"
NGINX, CRON, POSTGRES = "unit:nginx.service", "unit:cron.service", "unit:pg.service"


def tell_both_ends(store: FlowStore) -> None:
    """Two processes of web1 call db1, one calls out; db1 tells of that and of a call from outside."""
    abroad = [flow(key(process=CRON, remote=mapped(f"203.0.113.{n}"), port=443), at=NOW - DAY_US) for n in (7, 9)]
    told(store, 1, flow(key(process=NGINX)), flow(key(process=CRON), flows=2), *abroad)
    here = key("db1", ingress=True, workload="host", process=POSTGRES, rule="", verdict=FlowVerdict.OBSERVED)
    answered = flow(replace(here, remote=mapped("10.0.0.1")), flows=4)
    told(store, 1, answered, flow(replace(here, remote=mapped("203.0.113.9"))), host="db1")


def test_the_map_by_process_has_one_row_for_what_both_ends_told(store: FlowStore) -> None:
    tell_both_ends(store)
    assert set(store.process_map(0, 0, 10)) == {
        ProcessRow(WEB, DB, False, 6, 5432, 1, 0, 0, 10, 20, NOW, NGINX, POSTGRES),
        ProcessRow(WEB, DB, False, 6, 5432, 2, 0, 0, 10, 20, NOW, CRON, POSTGRES),
        ProcessRow(WEB, None, False, 6, 443, 2, 0, 0, 20, 40, NOW - DAY_US, CRON, ""),
        ProcessRow(DB, None, True, 6, 5432, 1, 0, 1, 10, 20, NOW, POSTGRES, ""),
    }
    assert [(row.tags, row.peer_tags) for row in store.process_map(NOW, 0, 1, ["role"])] == [("role=web", "role=db")]
    store.keep(NOW + 3 * DAY_US)
    assert len(store.process_map(0, 0, 10)) == 4


def test_where_one_process_called_the_end_that_saw_more_counts(store: FlowStore) -> None:
    told(store, 1, flow(key(process=NGINX), flows=3))
    here = key("db1", ingress=True, process=POSTGRES, remote=mapped("10.0.0.1"), verdict=FlowVerdict.WOULD_DENY)
    told(store, 1, flow(here, flows=5), host="db1")
    [row] = store.process_map(0, 0, 10)
    assert (row.flows, row.would_deny, row.observed, row.process, row.peer_process) == (5, 5, 0, NGINX, POSTGRES)


def test_a_flow_that_only_the_called_end_told_of_is_observed_too(store: FlowStore) -> None:
    told(store, 1, flow(key("db1", ingress=True, process=POSTGRES, remote=mapped("10.0.0.1"))), host="db1")
    [row] = store.observations(0, 0, 10)
    assert row.source == ObservedEnd(WEB)
    assert row.destination == ObservedEnd(DB, "shop-web", POSTGRES)


def test_observations_have_both_ends_and_when_they_were_seen(store: FlowStore) -> None:
    tell_both_ends(store)
    told(store, 2, flow(key(process=CRON), at=NOW - 7 * DAY_US + HOUR_US, flows=6))
    today, hour = NOW // DAY_US, NOW % DAY_US // HOUR_US
    days, hours = 1 << today % DAYS, 1 << hour
    cron, postgres = ObservedEnd(WEB, "shop-web", CRON), ObservedEnd(DB, "host", POSTGRES)
    found = {(row.source.process, row.destination.tags): row for row in store.observations(0, 0, 10)}
    assert found == {
        (NGINX, DB): Observation(replace(cron, process=NGINX), postgres, 6, 5432, 1, 0, 0, NOW - 5, NOW, days, hours),
        (CRON, DB): Observation(
            cron,
            postgres,
            6,
            5432,
            8,
            0,
            0,
            NOW - 7 * DAY_US + HOUR_US - 5,
            NOW,
            days | 1 << (today - 7) % DAYS,
            hours | 1 << hour + 1,
        ),
        (CRON, None): Observation(
            cron,
            ObservedEnd(None, "", "", mapped("203.0.113.7"), 120, 2),
            6,
            443,
            2,
            0,
            0,
            NOW - DAY_US - 5,
            NOW - DAY_US,
            1 << (today - 1) % DAYS,
            hours,
        ),
        ("", DB): Observation(
            ObservedEnd(None, "", "", mapped("203.0.113.9")), postgres, 6, 5432, 1, 0, 1, NOW - 5, NOW, days, hours
        ),
    }
    assert [row.source.process for row in store.observations(NOW, 0, 10) if row.port == 443] == []
    assert len(store.observations(0, 0, 2)) == 2


def test_flows_of_an_unknown_process_are_of_the_only_one_that_is_known(store: FlowStore) -> None:
    one, two, outside = key(port=1), key(port=2), key(port=3, remote=mapped("203.0.113.9"))
    for process in ("", NGINX):
        told(store, 1, *(flow(replace(k, process=process)) for k in (one, two, outside)), epoch=process or "e")
    told(store, 2, flow(replace(two, process=CRON)), epoch=NGINX)
    told(store, 3, flow(replace(outside, remote=mapped("198.51.100.1"), process="")), epoch=NGINX)
    here = key("db1", ingress=True, port=4)
    told(store, 1, flow(replace(here, process=POSTGRES)), flow(replace(here, remote=mapped("10.0.0.1"))), host="db1")
    assert sorted((row.port, row.process, row.flows) for row in store.process_map(0, 0, 20)) == [
        (1, NGINX, 2),
        (2, "", 1),
        (2, CRON, 1),
        (2, NGINX, 1),
        (3, "", 1),  # nobody was seen to call that address
        (3, NGINX, 2),
        (4, POSTGRES, 1),
        (4, POSTGRES, 1),
    ]


def test_a_store_of_the_version_before_is_taken_over(where: Path | Conninfo, ends: KnownEnds) -> None:
    store = flow_store_on(where, ends, LIMITS)
    told(store, 1, flow())
    with store._database.transaction() as work:
        work.run(text("ALTER TABLE flow_rows DROP COLUMN process"))
        work.run(update(meta).where(meta.c.name == "version").values(value=1))
    store.close()
    for sequence in (2, 3):
        store = flow_store_on(where, ends, LIMITS)
        told(store, sequence, flow(key(process=NGINX), at=NOW + sequence))
        store.close()
    store = flow_store_on(where, ends, LIMITS)
    assert [(row.key.process, row.flows) for row in store.flows(FlowFilter())] == [("", 1), (NGINX, 2)]
    store.keep(NOW + 3 * DAY_US)
    assert [(row.key.process, row.flows) for row in store.flows(FlowFilter())] == [("", 1), (NGINX, 2)]
    store.close()


def test_observations_count_hosts_and_keep_ipv6_networks_apart(store: FlowStore, ends: KnownEnds) -> None:
    ends.tags_of["web2"] = WEB
    for host in ("web1", "web2"):
        remotes = [ip_address(a).packed for a in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")]
        told(store, 1, flow(key(host)), *(flow(key(host, port=80, remote=remote)) for remote in remotes), host=host)
    rows = store.observations(0, 0, 10)
    assert {(r.source.hosts, r.destination.hosts, r.destination.prefix, r.destination.remote) for r in rows} == {
        (2, 1, 128, b""),
        (2, 2, 64, ip_address("2001:db8::1").packed),
        (2, 1, 128, ip_address("2001:db8:0:1::1").packed),
    }


def test_two_replicas_share_one_database(postgres_server: Server, ends: KnownEnds) -> None:
    url = empty_database(postgres_server)
    one, other = (flow_store_on(url, ends, LIMITS) for _ in range(2))
    assert one.add([report(1, flow())]) == (True,)
    assert other.add([report(1, flow()), report(2, flow(key(rule="new")))]) == (False, True)
    assert one.add([report(2, flow(key(rule="new")))]) == (False,)
    assert [row.key.rule for row in one.flows(FlowFilter(rule="new"))] == ["new"]
    assert [row.flows for row in other.flows(FlowFilter(rule="web-db"))] == [1]
    one.keep(NOW + HOUR_US)
    assert other.size().rows == 2
    one.close()
    other.close()


def test_kinds_tell_on_which_days_they_came(store: FlowStore) -> None:
    monday = NOW // DAY_US * DAY_US
    cron = key(process="unit:cron.service")
    told(store, 1, *(flow(cron, at=monday - days * DAY_US + 10) for days in (28, 21, 14, 7)))
    told(store, 2, flow(key(port=80), at=monday + 7))
    store.keep(monday + HOUR_US)
    since = monday - 30 * DAY_US + 5
    rows = store.kinds(since, 0, 10, ["role"], [since, monday - 14 * DAY_US + 10, monday])
    assert [(k.row.port, k.row.flows, k.flows, k.days, k.process) for k in rows] == [
        (5432, 4, (4, 2, 0), 1 << 2 | 1 << 9 | 1 << 16 | 1 << 23, "unit:cron.service"),
        (80, 1, (1, 1, 1), 1 << 30, ""),
    ]
    [alike] = store.judged_alike(monday, 0, 10, ["role"])
    assert rows[1].row == alike
    assert [k.days for k in store.kinds(monday - 61 * DAY_US, monday + DAY_US, 1)] == [
        1 << 33 | 1 << 40 | 1 << 47 | 1 << 54
    ]
    far = store.kinds(monday - 62 * DAY_US, 0, 10)
    assert [k.days.bit_length() for k in far if k.row.port == 80] == [63]


def test_what_a_rule_permitted_is_told_by_both_ends(store: FlowStore) -> None:
    observed = key(rule="", verdict=FlowVerdict.OBSERVED)
    told(store, 1, flow(flows=3), flow(key(remote=mapped("203.0.113.9"))), flow(observed))
    told(store, 1, flow(key("db1", ingress=True, workload="shop-db", remote=mapped("10.0.0.1")), flows=4), host="db1")
    told(store, 2, flow(key(rule="other")))
    assert store.used(0, 0, 10, ["web-db", "unheard-of"], ["role"]) == (
        UseRow("web-db", "role=db", "shop-db", True, "role=web", "", 6, 5432, 4),
        UseRow("web-db", "role=web", "shop-web", False, "role=db", "shop-db", 6, 5432, 3),
        UseRow("web-db", "role=web", "shop-web", False, None, "", 6, 5432, 1),
    )
    assert len(store.used(0, 0, 1, ["web-db"])) == 1
    assert store.used(0, 0, 10, ["unheard-of"]) == store.used(0, 0, 10, []) == ()


def test_days_of_rules_outlive_their_flows(store: FlowStore) -> None:
    day = NOW // DAY_US
    told(store, 1, flow(), flow(at=NOW - 3 * DAY_US), flow(key(rule="", verdict=FlowVerdict.OBSERVED), at=NOW - DAY_US))
    told(store, 1, flow(key("db1", rule="other"), at=NOW - DAY_US), host="db1")
    wanted = {"web-db": {day, day - 3}, "other": {day - 1}}
    assert store.rule_days() == wanted
    for later in (HOUR_US, 25 * HOUR_US, 40 * DAY_US):
        store.keep(NOW + later)
        assert store.rule_days() == wanted
    assert store.flows(FlowFilter()) == ()
    store.forget("db1")
    assert store.rule_days() == wanted
    store.keep((day + 398) * DAY_US)
    assert store.rule_days() == {"web-db": {day}, "other": {day - 1}}
    store.keep((day + 401) * DAY_US)
    assert store.rule_days() == {}


def test_days_of_hours_from_before_are_noted(where: Path | Conninfo, ends: KnownEnds) -> None:
    made = flow_store_on(where, ends, LIMITS)
    told(made, 1, flow(), flow(at=NOW - 3 * DAY_US))
    made.keep(NOW + 30 * HOUR_US)
    wanted = {"web-db": {NOW // DAY_US, NOW // DAY_US - 3}}
    assert made.rule_days() == wanted
    with made._database.transaction() as work:  # a store of a version that did not note them
        work.run(delete(rule_days))
    made.close()
    made = flow_store_on(where, ends, LIMITS)
    assert made.rule_days() == {}
    made.keep(NOW + 31 * HOUR_US)
    assert made.rule_days() == wanted
    made.close()


def test_addresses_that_nobody_held_are_listed_once(store: FlowStore) -> None:
    outside = [mapped("203.0.113.9"), mapped("198.51.100.1"), ip_address("2001:db8::9").packed]
    told(store, 1, *(flow(key(remote=remote)) for remote in (*outside, mapped("10.0.0.2"))))
    told(store, 2, flow(key(remote=outside[0], port=80)))
    assert sorted(store.outside(0, 0, 10)) == sorted(outside)
    assert len(store.outside(0, 0, 2)) == 2
    assert store.outside(NOW + DAY_US, 0, 10) == ()


def test_flows_are_of_the_workload_that_has_their_process_today(store: FlowStore) -> None:
    """Where a policy declares none that was told; declared, it stays, and nobody is asked about what is not known."""
    nginx, unknown = key(workload="host", process="unit:nginx.service"), key(workload="host", process="", port=81)
    gone = key(workload="front", process="unit:nginx.service")
    told(store, 1, flow(nginx, flows=2), flow(gone, flows=3), flow(unknown), flow(key(port=82)))
    on = "on: {role: web}, process: {unit: nginx.service}"
    policy = policy_of(f"version: 1\ntags: {{role: [web]}}\nworkloads: {{young: {{{on}}}}}\n")
    for claims, workloads in (
        (None, {("host", 5432, 2), ("front", 5432, 3), ("host", 81, 1), ("shop-web", 82, 1)}),
        (Claims(policy), {("young", 5432, 5), ("host", 81, 1), ("shop-web", 82, 1)}),
    ):
        rows = store.judged_alike(0, 0, 10, ["role"], claims)
        assert {(row.workload, row.port, row.flows) for row in rows} == workloads
        kinds = store.kinds(NOW - DAY_US, 0, 10, ["role"], [0], claims)
        assert {(kind.row.workload, kind.row.port, *kind.flows) for kind in kinds} == workloads
