"""What the check says of rules and selectors is true by the one definition of who may talk to whom."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address

from hypothesis import HealthCheck, given, settings
from segctl.model.inventory import Address, Inventory
from segctl.model.policy import Policy, PortRange, Rule
from segctl.policy.check import check_policy
from segctl.policy.checks.emptiness import live_selectors
from segctl.policy.decide import (
    Direction,
    Instance,
    cutting_boundary,
    decide_end,
    instances,
    is_live,
    pair_matches,
    selects,
)

from tests.strategies import fleets

TODAY = datetime(2026, 11, 22, tzinfo=UTC)
PORTS = tuple(
    PortRange(protocol, number, number)
    for protocol, numbers in (("tcp", (0, 22, 80, 85, 99)), ("udp", (0, 53)), ("icmp", (8, 13)), ("icmpv6", (128, 130)))
    for number in numbers
)
_PROPERTY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
_EDGES = (
    *(IPv4Address("10.9.0.0") + i for i in range(0, 256, 31)),
    *(IPv6Address("fd09::") + i for i in range(0, 256, 31)),
)

Pair = tuple[Direction, Instance, Instance | Address]


def pairs(policy: Policy, inventory: Inventory) -> list[Pair]:
    """Every local instance with every remote one, and with addresses that nobody holds."""
    here = [i for host in inventory.hosts.values() for i in instances(policy, host)]
    outside = [a for a in _EDGES if inventory.holder(a) is None]
    return [(d, i, r) for d in ("egress", "ingress") for i in here for r in (*here, *outside)]


def verdicts(policy: Policy, over: list[Pair]) -> list[bool]:
    return [
        decide_end(policy, d, i, (r,) if isinstance(r, Instance) else r, port, TODAY).allowed
        for d, i, r in over
        for port in PORTS
    ]


def reported(policy: Policy, inventory: Inventory | None, *codes: str) -> set[str]:
    """The rules that have a finding with one of `codes`."""
    found = check_policy(policy, inventory, TODAY)
    return {
        f.message.removeprefix("rule ").split()[0].rstrip(":")
        for f in found
        if f.code in codes and "rule " in f.message
    }


@_PROPERTY
@given(fleets())
def test_a_rule_that_adds_nothing_can_go(fleet: tuple[Policy, Inventory]) -> None:
    policy, inventory = fleet
    over = pairs(policy, inventory)
    before = verdicts(policy, over) if policy.rules else []
    idle = {"rule-shadowed", "rule-duplicate", "rule-cut", "rule-never", "rule-expired"}
    for name in reported(policy, None, *idle):
        without = replace(policy, rules=tuple(r for r in policy.rules if r.name != name))
        assert len(without.rules) == len(policy.rules) - 1
        assert verdicts(without, over) == before


def is_cut(policy: Policy, rule: Rule, pair: Pair) -> bool:
    direction, local, remote = pair
    return pair_matches(policy, direction, rule, local, remote) and bool(
        cutting_boundary(policy, direction, local, remote)
    )


@_PROPERTY
@given(fleets())
def test_a_rule_that_a_boundary_touches_is_reported(fleet: tuple[Policy, Inventory]) -> None:
    policy, inventory = fleet
    over = pairs(policy, inventory)
    cut = {r.name for r in policy.rules if is_live(r, TODAY) and any(is_cut(policy, r, pair) for pair in over)}
    assert cut <= _cut_rules(policy)


def _cut_rules(policy: Policy) -> set[str]:
    found = [f for f in check_policy(policy, None, TODAY) if f.code in ("rule-cut", "rule-narrowed")]
    return {r.name for r in policy.rules for f in found if f"rule {r.name} " in f.message + " "}


@_PROPERTY
@given(fleets())
def test_a_selector_is_empty_when_it_selects_no_enrolled_instance(fleet: tuple[Policy, Inventory]) -> None:
    policy, inventory = fleet
    here = [i for host in inventory.hosts.values() for i in instances(policy, host)]
    empty = {
        what
        for selector, what in live_selectors(policy)
        if selector.peer is None and not any(selects(selector, i) for i in here)
    }
    found = [f.message for f in check_policy(policy, inventory, TODAY) if f.code == "selector-empty"]
    said = {message.split(" matches ")[0] for message in found if "of a test" not in message}
    assert said == empty
