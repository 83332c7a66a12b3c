"""Bodies on the wire, and changes of their members."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from segctl.bodywire import apply_delta, delta_bytes, delta_header, host_policy_bytes
from segctl.errors import WireError
from segctl.model.inventory import Host, Inventory
from segctl.model.policy import Policy, PortRange
from segctl.policy.body import Body
from segctl.policy.compile import Compiler
from segctl.policy.digest import host_policy_digest
from segctl.proto.v1 import hostpolicy_pb2 as hp
from segctl.wire import host_policy_from_wire, host_policy_to_wire

from tests.shop import FLEET, SHOP, TODAY
from tests.strategies import fleets
from tests.unit.segctl.policy.test_incremental import Change, histories


def delta(old: Body, new: Body, host: str) -> hp.HostDelta | None:
    changes = delta_bytes(old, new)
    if changes is None:
        return None
    header = delta_header(3, old.host_digest(host, 3, "d"), new.host_digest(host, 3, "d"))
    return hp.HostDelta.FromString(header + changes)


@settings(max_examples=60, deadline=None)
@given(fleets())
def test_put_together_from_parts_it_is_the_same_message(fleet: tuple[Policy, Inventory]) -> None:
    policy, inventory = fleet
    compiler = Compiler(policy, inventory, TODAY)
    for name in inventory.hosts:
        value = compiler.host_policy(name, 3, "d")
        message = hp.HostPolicy.FromString(host_policy_bytes(compiler.body(name), name, 3, "d"))
        assert host_policy_from_wire(message) == value
        assert message == host_policy_to_wire(value)


@pytest.mark.parametrize("ports", [0, 1, 12, 40, 2000])
def test_an_entry_of_any_length_is_the_same_message(ports: int) -> None:
    """One, two and three bytes for its length, and a group that another entry of the rule does not have."""
    services = tuple(PortRange("tcp", 1000 + 2 * n, 1000 + 2 * n) for n in range(ports))
    policy = replace(SHOP, rules=tuple(replace(r, ports=services) for r in SHOP.rules))
    compiler = Compiler(policy, FLEET, TODAY)
    for name in FLEET.hosts:
        value = compiler.host_policy(name, 3, "d")
        for body in (compiler.body(name), Body.of(value)):
            message = hp.HostPolicy.FromString(host_policy_bytes(body, name, 3, "d"))
            assert message == host_policy_to_wire(value)


@settings(max_examples=60, deadline=None)
@given(histories())
def test_a_delta_leads_from_one_to_the_other(history: tuple[Policy, Inventory, list[list[Change]]]) -> None:
    policy, inventory, rounds = history
    compiler = Compiler(policy, inventory, TODAY)
    bodies = {name: compiler.body(name) for name in inventory.hosts}
    for changes in rounds:
        for name, host in changes:
            if host is None:
                compiler.drop(name)
            else:
                compiler.put(host)
        compiler.settle()
        for name, before in bodies.items():
            after = compiler.settled_body(name)
            if after is None or (change := delta(before, after, name)) is None:
                continue
            assert apply_delta(before.policy(name, 3, "d"), change) == after.policy(name, 3, "d")


def grown(hosts: int) -> tuple[Body, Body]:
    """Bodies of web1 before and after so many databases joined its group."""
    compiler = Compiler(SHOP, FLEET, TODAY)
    before = compiler.body("web1")
    db1 = FLEET.hosts["db1"]
    for number in range(hosts):
        compiler.put(Host(f"new{number}", db1.tags, (IPv4Address("10.1.0.0") + number,)))
    return before, compiler.body("web1")


@pytest.mark.parametrize("hosts", [1, 100, 5000])
def test_a_delta_is_as_large_as_what_changed(hosts: int) -> None:
    before, after = grown(hosts)
    groups = sum(a is not b for a, b in zip(before.members, after.members, strict=True))
    changes = delta_bytes(before, after)
    assert changes is not None
    assert len(changes) <= 1.2 * 4 * hosts * groups + 64


def test_who_holds_something_else_is_told_so() -> None:
    before, after = grown(1)
    change = delta(before, after, "web1")
    assert change is not None
    value = before.policy("web1", 3, "d")
    with pytest.raises(WireError, match="another digest"):
        apply_delta(replace(value, policy_digest="e"), change)
    with pytest.raises(WireError, match="another digest"):
        apply_delta(replace(value, generation=4), change)
    with pytest.raises(WireError, match="not there"):
        apply_delta(replace(value, groups=()), change)


def test_without_a_change_it_tells_what_is_held() -> None:
    body, _ = grown(1)
    value = body.policy("web1", 3, "d")
    header = hp.HostDelta(generation=3, base=host_policy_digest(value), digest=host_policy_digest(value))
    assert delta_bytes(body, body) == b""
    assert apply_delta(value, header) == value


def test_other_rules_need_a_whole_policy() -> None:
    body, _ = grown(1)
    other = Compiler(replace(SHOP, rules=SHOP.rules[1:]), FLEET, TODAY)
    assert delta_bytes(body, other.body("web1")) is None
    same = Compiler(SHOP, FLEET, TODAY)
    assert delta_bytes(body, same.body("web1")) == b""
