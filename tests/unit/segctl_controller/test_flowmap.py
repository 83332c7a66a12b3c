"""Edges of the map: both ends joined, judged, and compared with what the network did."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl.policy.parse import parse_policy
from segctl_controller.flowmap import Detail, Edge, Mapper, Node
from segctl_controller.flowstore.judging import Judge, Said
from segctl_controller.flowstore.outside import Peers
from segctl_controller.flowstore.records import MapRow

from tests.flowrows import mapped
from tests.policies import source

NOW = datetime(2026, 11, 28, tzinfo=UTC)
TEXT = """version: 1
tags: {role: [web, db], env: [prod, dev, lab]}
services: {pg: [tcp/5432]}
peers: {office: [203.0.113.0/24], printer: [203.0.113.7]}
workloads:
  shop-web: {on: {role: web}, process: {unit: nginx.service}}
modes:
  - {select: {env: prod}, mode: enforce}
  - {select: {env: dev}, mode: test}
rules:
  - {name: web-db, from: {workload: shop-web}, to: {role: db}, allow: [pg], owner: team-shop, why: w}
  - {name: to-office, from: {role: web}, to: {peer: office}, allow: [pg], owner: o, why: w}
"""
WEB, DB = "env=prod,role=web", "env=prod,role=db"
PARSED = parse_policy([source(TEXT)])
assert PARSED.policy is not None, PARSED.findings
POLICY = PARSED.policy
PEERS = Peers(POLICY)


def row(**fields: object) -> MapRow:
    """From the web to the database, told by the web."""
    made = MapRow(WEB, "shop-web", False, DB, "", b"", 6, 5432, 5, fresh=5, octets=70, last_us=9)
    return replace(made, **fields)  # type: ignore[arg-type]


def answered(**fields: object) -> MapRow:
    """The same, told by the database."""
    return row(**{"tags": DB, "workload": "host", "ingress": True, "peer_tags": WEB, **fields})


def outside(address: str, **fields: object) -> MapRow:
    remote = PEERS.ranges.first(PEERS.ranges.at(mapped(address)))
    return row(**{"peer_tags": None, "remote": remote, **fields})


def edges(
    *rows: MapRow, denied: tuple[MapRow, ...] = (), by: str = "role", detail: Detail = Detail.GROUP
) -> list[Edge]:
    keys = frozenset(by.split(",")) if by else None
    return Mapper(Judge(POLICY, NOW), PEERS.name, keys, detail).edges(rows, denied, 1000)[0]


def test_both_ends_make_one_edge_and_the_end_that_saw_more_counts() -> None:
    [edge] = edges(row(), row(flows=2, workload="host", fresh=0), answered(flows=6, octets=100, last_us=20))
    assert (str(edge.source.tags), str(edge.destination.tags)) == ("role=web", "role=db")
    assert (edge.flows, edge.octets, edge.last_us) == (7, 140, 20)
    assert edge.verdicts == (5, 0, 0, 2)
    assert edge.verdict is Said.DENIED
    assert edge.comparison == (5, 0, 0, 0)
    assert [(r.ingress, r.said, r.reason, r.name, r.flows) for r in edge.reasons] == [
        (False, Said.DENIED, "default", "", 2),
        (True, Said.ALLOWED, "rule", "web-db", 6),
        (False, Said.ALLOWED, "rule", "web-db", 5),
    ]


@pytest.mark.parametrize(
    ("env", "said", "verdicts"),
    [
        ("prod", Said.DENIED, (0, 0, 0, 5)),
        ("dev", Said.WOULD_DENY, (0, 0, 5, 0)),
        ("lab", Said.NOT_COVERED, (0, 5, 0, 0)),
    ],
)
def test_what_no_rule_allows_is_by_mode(env: str, said: Said, verdicts: tuple[int, ...]) -> None:
    tags = {"tags": f"env={env},role=web", "peer_tags": f"env={env},role=db"}
    [edge] = edges(row(workload="host", **tags))
    assert (edge.verdict, edge.verdicts) == (said, verdicts)
    escaped = 5 if said is Said.DENIED else 0
    assert edge.comparison == (5 - escaped, 0, escaped, 0)


def test_the_strictest_end_holds() -> None:
    [edge] = edges(row(tags="env=lab,role=web", port=22), by="")
    assert edge.verdict is Said.DENIED  # by the database
    assert [(r.ingress, r.said) for r in edge.reasons] == [(True, Said.DENIED), (False, Said.NOT_COVERED)]


def test_the_policy_and_the_network_are_compared() -> None:
    wrong = row(workload="host", flows=3, fresh=2)
    denied = (
        row(flows=4, fresh=4, port=22),
        row(flows=2, fresh=1, workload="host"),
        row(flows=8, fresh=8),
    )
    found = {edge.port: edge for edge in edges(row(), wrong, denied=denied)}
    assert (found[22].flows, found[22].denied, found[22].verdict) == (0, 4, Said.DENIED)
    assert found[22].comparison == (0, 4, 0, 0)
    assert (found[5432].flows, found[5432].denied) == (8, 10)
    assert found[5432].comparison == (5, 1, 2, 8)


def test_what_the_destination_refused_did_not_pass_though_the_source_let_it() -> None:
    refused = answered(flows=3, fresh=3)
    [edge] = edges(row(), answered(flows=2, fresh=2), denied=(refused,))
    assert edge.comparison == (2, 0, 0, 3)
    [edge] = edges(row(), denied=(refused,))
    assert edge.comparison == (0, 0, 0, 3)


def test_flows_that_live_on_count_as_none_and_are_judged() -> None:
    [edge] = edges(row(flows=0, fresh=0, workload="host"))
    assert (edge.flows, edge.verdict, edge.verdicts) == (0, Said.DENIED, (0, 0, 0, 0))


def test_addresses_outside_are_their_peer_and_in_detail_their_block() -> None:
    rows = [outside("203.0.113.9"), outside("203.0.113.7"), outside("198.51.100.1"), outside("2001:db8::1")]
    assert [(e.destination.peer, e.verdict) for e in edges(*rows)] == [
        ("", Said.DENIED),
        ("office", Said.ALLOWED),
        ("printer", Said.ALLOWED),
    ]
    blocks = [replace(r, block=mapped(f"198.51.{n}.0")) for n, r in enumerate((rows[2], rows[2]))]
    assert [e.destination.network for e in edges(*blocks, detail=Detail.NETWORK)] == ["198.51.0.0/24", "198.51.1.0/24"]
    assert [e.destination for e in edges(*blocks)] == [Node(None)]


def test_in_detail_ends_are_hosts_and_workloads() -> None:
    told = [row(host="web1", peer="db1"), answered(host="db1", peer="web1", flows=6)]
    [edge] = edges(*told, detail=Detail.HOST)
    assert [(n.host, n.workload) for n in (edge.source, edge.destination)] == [("web1", ""), ("db1", "")]
    [edge] = edges(*told, detail=Detail.WORKLOAD)
    assert [(n.host, n.workload) for n in (edge.source, edge.destination)] == [("web1", "shop-web"), ("db1", "host")]
    assert (edge.flows, edge.verdicts) == (6, (6, 0, 0, 0))
    processes = [replace(one, process=p) for one, p in zip(told, ("unit:nginx.service", "exe:/x"), strict=True)]
    [edge] = edges(*processes, detail=Detail.PROCESS)
    assert [(n.host, n.process) for n in (edge.source, edge.destination)] == [
        ("web1", "unit:nginx.service"),
        ("db1", "exe:/x"),
    ]
    several = edges(*told, row(host="web1", peer="db1", workload="host"), detail=Detail.WORKLOAD)
    assert {(e.source.workload, e.destination.workload) for e in several} == {("shop-web", "host"), ("host", "host")}


def test_most_flows_come_first_and_the_rest_is_counted() -> None:
    rows = [row(port=port, flows=flows) for port, flows in ((1, 3), (2, 9), (3, 3))]
    mapper = Mapper(Judge(POLICY, NOW), PEERS.name, None, Detail.GROUP)
    found, number = mapper.edges(rows, [], 2)
    assert ([edge.port for edge in found], number) == ([2, 1], 3)


ROWS = st.builds(
    row,
    tags=st.sampled_from([WEB, DB, "env=lab,role=web", "env=dev,role=db"]),
    workload=st.sampled_from(["shop-web", "host", "gone"]),
    ingress=st.booleans(),
    peer_tags=st.sampled_from([WEB, DB, "env=lab,role=db", None]),
    remote=st.just(PEERS.ranges.first(0)),
    port=st.sampled_from([5432, 22]),
    flows=st.integers(0, 9),
    fresh=st.just(0),
)


@given(st.lists(ROWS, max_size=8), st.sampled_from(["", "role", "env"]))
def test_every_flow_is_of_one_verdict(rows: list[MapRow], by: str) -> None:
    found = edges(*rows, by=by)
    judge = Judge(POLICY, NOW)
    for edge in found:
        assert sum(edge.verdicts) == edge.flows
        assert min(edge.verdicts) >= 0
    strictest = max((judge.flow(one).said for one in rows if one.flows), default=None)
    assert max((e.verdict for e in found if e.flows), default=None) == strictest
    assert found == edges(*reversed(rows), by=by)
