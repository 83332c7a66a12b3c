"""What a draft would block is what the policy's own decision says of every end, rule by rule."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segctl.model.inventory import Host
from segctl.model.policy import HOST_WORKLOAD, Mode, Policy
from segctl.policy.decide import decide_end, effective_mode, essential, instances
from segctl.policy.parse import parse_policy
from segctl_controller.flowstore.decisions import parse_tags
from segctl_controller.flowstore.draft import Blocked, judge
from segctl_controller.flowstore.records import DraftRow
from segctl_controller.flowstore.wire import address_of, service_of

from tests.flowrows import mapped
from tests.policies import source

NOW = datetime(2026, 11, 28, tzinfo=UTC)


def parsed(text: str) -> Policy:
    found = parse_policy([source(text)])
    assert found.policy is not None, found.findings
    return found.policy


TEXT = """version: 1
tags: {role: [web, db], env: [prod, dev]}
services: {pg: [tcp/5432], high: [tcp/8000-8100], ping: [icmp/8]}
peers: {office: [203.0.113.0/24]}
essentials: {dns: [198.51.100.53], rescue: {from: [192.0.2.0/24], allow: [tcp/22]}}
workloads:
  shop-db: {on: {role: db}, tags: {}, process: {unit: postgresql.service}}
  shop-web: {on: {role: web}, process: {unit: nginx.service}}
modes:
  - {select: {env: prod}, mode: enforce}
  - {select: {env: dev}, mode: test}
boundaries:
  - {name: dev-out, from: {env: dev}, to: {env: prod}}
rules:
  - {name: web-db, from: {workload: shop-web}, to: {workload: shop-db}, within: [env], allow: [pg], owner: o, why: w}
  - {name: any-high, from: {env: prod}, to: {role: db}, allow: [high], owner: o, why: w}
  - {name: dev-high, from: {env: dev}, to: {env: prod}, allow: [high], owner: o, why: w}
  - {name: from-office, from: {peer: office}, to: {role: web}, allow: [high], owner: o, why: w}
  - {name: to-office, from: {workload: shop-web}, to: {peer: office}, allow: [pg], owner: o, why: w}
  - {name: gone, from: {role: web}, to: {role: db}, allow: [ping], expires: 2026-01-01, owner: o, why: w}
  - {name: everybody, from: {}, to: {role: db, env: prod}, allow: [ping], owner: o, why: w}
"""
POLICY = parsed(TEXT)
TAGS = ("", "env=prod,role=web", "env=prod,role=db", "env=dev,role=web", "env=dev,role=db", "env=prod")
REMOTES = ("203.0.113.9", "198.51.100.53", "192.0.2.4", "8.8.8.8")


def row(
    tags: str, workload: str, ingress: bool, peer: str | None, service: tuple[int, int], flows: int = 1
) -> DraftRow:
    """`peer` is a tag group, or an address."""
    outside = peer in REMOTES
    remote = mapped(str(peer)) if outside else b""
    return DraftRow(tags, workload, ingress, None if outside else peer, remote, *service, flows, 0, "h", "")


def plainly(policy: Policy, one: DraftRow) -> Blocked | None:
    """Without an index."""
    here = instances(policy, Host("", parse_tags(one.tags)))
    local = next((i for i in here if i.workload == one.workload), None)
    local = local or next(i for i in here if i.workload == HOST_WORKLOAD)
    direction = "ingress" if one.ingress else "egress"
    service = service_of(one.protocol, one.port)
    if one.peer_tags is None:
        remote = address_of(one.remote)
        if essential(policy, direction, remote, service):
            return None
        decision = decide_end(policy, direction, local, remote, service, NOW)
    else:
        there = instances(policy, Host("", parse_tags(one.peer_tags)))
        decision = decide_end(policy, direction, local, there, service, NOW)
    if decision.allowed or effective_mode(policy, local) is not Mode.ENFORCE:
        return None
    return Blocked(one, service, decision)


ROWS = st.builds(
    row,
    st.sampled_from(TAGS),
    st.sampled_from(["host", "shop-db", "shop-web", "gone"]),
    st.booleans(),
    st.sampled_from([*TAGS, *REMOTES]),
    st.sampled_from([(6, 5432), (6, 8050), (6, 22), (17, 53), (1, 8), (132, 0)]),
)


@settings(deadline=None)
@given(st.lists(ROWS, max_size=20))
def test_the_index_leaves_out_no_rule_that_matters(rows: list[DraftRow]) -> None:
    found = judge(rows, POLICY, NOW)
    assert list(found.blocked) == [blocked for one in rows if (blocked := plainly(POLICY, one))]
    assert found.judged == len(rows)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (row("env=prod,role=web", "shop-web", False, "env=prod,role=db", (6, 5432)), None),
        (row("env=prod,role=web", "host", False, "env=prod,role=db", (6, 5432)), "default"),
        (row("env=prod,role=web", "shop-web", False, "env=dev,role=db", (6, 5432)), "default"),
        (row("env=prod,role=db", "shop-db", True, "env=dev,role=web", (6, 8050)), "boundary"),
        (row("env=dev,role=web", "shop-web", False, "env=prod,role=db", (6, 8050)), None),  # dev is only tested
        (row("env=prod,role=web", "shop-web", False, "203.0.113.9", (6, 5432)), None),
        (row("env=prod,role=web", "shop-web", False, "8.8.8.8", (6, 5432)), "default"),
        (row("env=prod,role=web", "host", False, "198.51.100.53", (17, 53)), None),  # an essential
    ],
)
def test_some_verdicts(one: DraftRow, reason: str | None) -> None:
    found = judge([one], POLICY, NOW).blocked
    assert [blocked.decision.reason for blocked in found] == ([reason] if reason else [])


def test_addresses_outside_are_told_apart() -> None:
    assert address_of(mapped("8.8.8.8")) == ip_address("8.8.8.8")
