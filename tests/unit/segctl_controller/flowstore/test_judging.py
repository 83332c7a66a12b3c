"""What the judge says of both ends of a flow is what the explainer says of such hosts."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segctl.model.inventory import Address, Inventory
from segctl.model.policy import Policy
from segctl.policy.decide import Instance, instances
from segctl.policy.explain import explain_ends
from segctl.policy.propose import End
from segctl_controller.flowstore.judging import Judge, Said
from segctl_controller.flowstore.outside import Peers
from segctl_controller.flowstore.records import MapRow
from segctl_controller.flowstore.wire import remote_of, service_of

from tests.shop import TODAY
from tests.strategies import addresses, fleets
from tests.unit.segctl_controller.flowstore.test_draft import NOW, POLICY, parsed

Service = tuple[int, int]
SERVICES = ((6, 22), (6, 85), (6, 80), (17, 53), (17, 123), (1, 8), (1, 13), (58, 130), (58, 128), (132, 0))
EXPLAINED = {Said.ALLOWED: "allowed", Said.NOT_COVERED: "allowed", Said.WOULD_DENY: "would-deny", Said.DENIED: "denied"}


def row(told: Instance, other: End, ingress: bool, service: Service, peers: Peers) -> MapRow:
    """As the flow store tells it, with the workloads of both ends."""
    managed = isinstance(other, Instance)
    return MapRow(
        tags=str(told.host_tags),
        workload=told.workload,
        ingress=ingress,
        peer_tags=str(other.host_tags) if isinstance(other, Instance) else None,
        peer_workload=other.workload if isinstance(other, Instance) else "",
        remote=b"" if managed else peers.ranges.first(peers.ranges.at(remote_of(other))),  # type: ignore[arg-type]
        protocol=service[0],
        port=service[1],
        flows=1,
    )


def stand_ins(inventory: Inventory) -> dict[str, tuple[Address, ...]]:
    """The addresses of all hosts, by tags. Only hosts whose tags nobody else has can stand for a group."""
    return {str(host.tags): host.addresses for host in inventory.hosts.values()}


@settings(max_examples=50)
@given(fleets(), st.lists(addresses(), min_size=2, max_size=2))
def test_an_edge_is_what_the_explainer_says_of_its_hosts(
    fleet: tuple[Policy, Inventory], strangers: list[Address]
) -> None:
    policy, inventory = fleet
    held = stand_ins(inventory)
    alone = {host.name for host in inventory.hosts.values() if held[str(host.tags)] == host.addresses}
    everyone = [i for name in sorted(alone) for i in instances(policy, inventory.hosts[name])]
    enrolled = {address for host in inventory.hosts.values() for address in host.addresses}
    outside = [address for address in strangers if address not in enrolled]
    judge, peers = Judge(policy, TODAY, lambda tags: held[tags]), Peers(policy)
    pairs = [(told, other) for told, other in product(everyone, [*everyone, *outside])]
    for at, (told, other) in enumerate(pairs):
        if isinstance(other, Instance) and other.host == told.host:
            continue
        service, ingress = SERVICES[at % len(SERVICES)], at % 3 == 0
        found = judge.flow(row(told, other, ingress, service, peers))
        ends = (other, told) if ingress else (told, other)
        explained = explain_ends(policy, inventory, ends[0], ends[1], service_of(*service), TODAY)
        assert EXPLAINED[found.said] == explained.verdict
        assert (found.said is Said.ALLOWED) == all(end.decision.allowed for end in explained.ends)
        assert {(end.ingress, end.decision) for end in found.ends} == {
            (end.direction == "ingress", end.decision) for end in explained.ends
        }


WEB, DB, DEV = "env=prod,role=web", "env=prod,role=db", "env=dev,role=web"


@pytest.mark.parametrize(
    ("ends", "service", "said", "reasons"),
    [
        ((WEB, "shop-web", DB, "shop-db"), (6, 5432), Said.ALLOWED, ["web-db", "web-db"]),
        ((WEB, "", DB, "shop-db"), (6, 5432), Said.ALLOWED, ["web-db", "web-db"]),  # shop-web may
        ((WEB, "shop-web", DB, ""), (6, 5432), Said.ALLOWED, ["web-db", "web-db"]),
        ((WEB, "host", DB, "shop-db"), (6, 5432), Said.DENIED, ["", "web-db"]),
        ((DEV, "host", DB, "host"), (6, 8050), Said.DENIED, ["dev-out", "dev-out"]),
        ((DEV, "host", DEV, "host"), (6, 22), Said.WOULD_DENY, ["", ""]),
        (("", "host", "", "host"), (6, 22), Said.NOT_COVERED, ["", ""]),
        (("", "", DB, ""), (1, 8), Said.ALLOWED, ["everybody", "everybody"]),
    ],
)
def test_some_edges(ends: tuple[str, str, str, str], service: Service, said: Said, reasons: list[str]) -> None:
    tags, workload, peer_tags, peer_workload = ends
    judge = Judge(POLICY, NOW)
    found = judge.flow(MapRow(tags, workload, False, peer_tags, peer_workload, b"", *service, 1))
    assert (found.said, [end.decision.name for end in found.ends]) == (said, reasons)
    again = judge.flow(MapRow(tags, workload, False, peer_tags, peer_workload, b"", *service, 9))
    assert all(one is other for one, other in zip(found.ends, again.ends, strict=True))


CROSSING = parsed("""version: 1
tags: {role: [front, back]}
services: {pg: [tcp/5432], web: [tcp/80]}
workloads:
  x: {on: {role: front}, process: {unit: x.service}}
  y: {on: {role: front}, process: {unit: y.service}}
  a: {on: {role: back}, process: {unit: a.service}}
  b: {on: {role: back}, process: {unit: b.service}}
modes: [{select: {}, mode: enforce}]
boundaries: [{name: no-x, from: {workload: x}, to: {workload: a}}]
rules:
  - {name: y-a, from: {workload: y}, to: {workload: a}, allow: [pg], owner: o, why: w}
  - {name: y-a-web, from: {workload: y}, to: {workload: a}, allow: [web], owner: o, why: w}
  - {name: x-b, from: {workload: x}, to: {workload: b}, allow: [pg], owner: o, why: w}
""")


def test_a_boundary_is_not_passed_under_the_cover_of_another_rule() -> None:
    judge = Judge(CROSSING, NOW)
    for ingress, port, decision in ((True, 5432, "no-x"), (True, 80, "y-a-web"), (False, 5432, "y-a")):
        ends = ("role=back", "a", "role=front") if ingress else ("role=front", "y", "role=back")
        assert judge.end(ingress, *ends, 6, port).decision.name == decision
