"""Decisions by the ten thousand are those of segctl.policy.decide, over random policies and fleets."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import product

import pytest
from hypothesis import given, settings
from segctl.model.inventory import Host, Inventory
from segctl.model.policy import (
    HOST_WORKLOAD,
    Boundary,
    Policy,
    PortRange,
    Process,
    ProcessKind,
    Rule,
    Selector,
    Tags,
    Workload,
)
from segctl.policy.decide import Direction, decide_end, effective_mode, essential, instances
from segctl_controller.flowstore.decisions import Decisions, parse_tags
from segctl_controller.flowstore.wire import remote_of, service_of

from tests.shop import TODAY
from tests.strategies import fleets

SERVICES = ((6, 22), (6, 85), (17, 53), (1, 8), (58, 135), (132, 0))
STRANGERS = [ip_address(a) for a in ("10.9.0.0", "10.9.0.77", "192.0.2.1", "fd09::7")]
DIRECTIONS: tuple[Direction, Direction] = ("egress", "ingress")


@settings(max_examples=100, deadline=None)
@given(fleets())
def test_they_are_those_of_decide(fleet: tuple[Policy, Inventory]) -> None:
    policy, inventory = fleet
    decisions = Decisions(policy, TODAY)
    tags = sorted({host.tags for host in inventory.hosts.values()})[:3]
    everyone = [Host("", one) for one in tags]
    for here, there in product(everyone, [*everyone, *STRANGERS]):
        group = decisions.group(str(here.tags))
        for local, ingress, place in product(instances(policy, here), (0, 1), SERVICES):
            member, service = group.member(local.workload), decisions.service(*place)
            assert member.mode is effective_mode(policy, local)
            if isinstance(there, Host):
                found = decisions.between(ingress, group, member, decisions.group(str(there.tags)), service)
                plainly = decide_end(
                    policy, DIRECTIONS[ingress], local, instances(policy, there), service_of(*place), TODAY
                )
            else:
                found = decisions.outside(ingress, group, member, remote_of(there), service)
                direction, port = DIRECTIONS[ingress], service_of(*place)
                plainly = essential(policy, direction, there, port) or decide_end(
                    policy, direction, local, there, port, TODAY
                )
            assert found == plainly


@pytest.mark.parametrize("workload", ["gone", HOST_WORKLOAD])
def test_a_workload_that_is_not_declared_is_the_hosts(workload: str) -> None:
    group = Decisions(Policy(), TODAY).group("app=shop")
    assert group.member(workload) is group.host


def test_tags_are_read_as_the_store_has_them() -> None:
    assert parse_tags("").pairs == ()
    assert parse_tags("app=shop,role=db").pairs == (("app", "shop"), ("role", "db"))


def test_a_boundary_is_not_passed_under_the_cover_of_a_rule_for_two_others() -> None:
    """The destination cannot tell `bad` from `good`, and `bad` may call `other` there on the same port."""
    tcp80 = PortRange("tcp", 80, 80)
    workloads = {
        name: Workload(name, Tags.of({"role": role}), Process(ProcessKind.UNIT, f"{name}.service"))
        for name, role in (("good", "web"), ("bad", "web"), ("safe", "db"), ("other", "db"))
    }
    rules = tuple(
        Rule(f"{a}-{b}", Selector(workload=a), Selector(workload=b), ("tcp/80",), (tcp80,))
        for a, b in (("good", "safe"), ("bad", "other"))
    )
    boundary = Boundary("kept-out", Selector(workload="bad"), Selector(workload="safe"))
    for boundaries, reason in (((), "rule"), ((boundary,), "boundary")):
        decisions = Decisions(Policy(workloads=workloads, rules=rules, boundaries=boundaries), TODAY)
        here, there = decisions.group("role=db"), decisions.group("role=web")
        found = decisions.between(1, here, here.member("safe"), there, decisions.service(6, 80))
        assert found.reason == reason
