"""What is compiled change by change is what is compiled at once."""

from __future__ import annotations

import gc
from dataclasses import replace
from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st
from segctl.bodywire import host_policy_bytes
from segctl.model.inventory import Host, Inventory
from segctl.model.policy import Boundary, Policy, Selector
from segctl.policy.body import Body
from segctl.policy.compile import WORN, Compiler
from segctl.policy.digest import host_policy_digest

from tests.shop import FLEET, SHOP, TODAY, host
from tests.strategies import fleets, inventories

Change = tuple[str, Host | None]


@st.composite
def histories(draw: st.DrawFn) -> tuple[Policy, Inventory, list[list[Change]]]:
    """A fleet, and rounds of changes: hosts of other inventories come by the names of these, or hosts go."""
    policy, inventory = draw(fleets(max_rules=6, max_hosts=5))
    rounds = []
    for _ in range(draw(st.integers(1, 4))):
        changes: list[Change] = []
        for name, other in draw(inventories(policy, max_hosts=5)).hosts.items():
            changes.append((name, draw(st.sampled_from([other, None, other]))))
        rounds.append(changes)
    return policy, inventory, rounds


def same(compiler: Compiler, policy: Policy, hosts: dict[str, Host]) -> None:
    fresh = Compiler(policy, Inventory(hosts), TODAY)
    for name in hosts:
        assert compiler.host_policy(name, 1, "d") == fresh.host_policy(name, 1, "d")


@settings(max_examples=80, deadline=None)
@given(histories())
def test_incremental_equals_full(history: tuple[Policy, Inventory, list[list[Change]]]) -> None:
    policy, inventory, rounds = history
    hosts = dict(inventory.hosts)
    compiler = Compiler(policy, inventory, TODAY)
    same(compiler, policy, hosts)
    for changes in rounds:
        before = {name: compiler.host_policy(name, 1, "d") for name in hosts}
        for name, changed in changes:
            if changed is None:
                hosts.pop(name, None)
                compiler.drop(name)
            else:
                hosts[name] = changed
                compiler.put(changed)
        told = compiler.settle()
        same(compiler, policy, hosts)
        really = {name for name in hosts if before.get(name) != compiler.host_policy(name, 1, "d")}
        assert really <= told <= hosts.keys()


@settings(max_examples=100, deadline=None)
@given(fleets())
def test_digests_made_of_parts_are_those_of_the_values(fleet: tuple[Policy, Inventory]) -> None:
    policy, inventory = fleet
    compiler = Compiler(policy, inventory, TODAY)
    for name in inventory.hosts:
        value = compiler.host_policy(name, 3, "d")
        assert compiler.body(name).host_digest(name, 3, "d") == host_policy_digest(value)
        assert Body.of(value).host_digest(name, 3, "d") == host_policy_digest(value)


def test_who_does_not_need_the_members_that_changed_keeps_his_body() -> None:
    compiler = Compiler(SHOP, FLEET, TODAY)
    compiler.settle()
    bodies = {name: compiler.body(name) for name in FLEET.hosts}
    compiler.put(replace(FLEET.hosts["db1"], addresses=(ip_address("10.0.0.77"),)))
    changed = compiler.settle()
    assert "web1" in changed
    assert "dbd" not in changed
    assert {name for name in FLEET.hosts if compiler.body(name) is not bodies[name]} == changed


def test_an_address_that_two_hosts_claim_goes_with_the_second() -> None:
    """The controller never lets that happen; here it must not leave a member behind, or take one too many away."""
    shared = {**FLEET.hosts, "db2": host("db2", "10.0.0.2", app="shop", role="db", env="prod")}
    compiler = Compiler(SHOP, Inventory(shared), TODAY)
    compiler.settle()
    compiler.drop("db1")
    compiler.settle()
    left = {name: one for name, one in shared.items() if name != "db1"}
    same(compiler, SHOP, left)
    compiler.drop("db2")
    del left["db2"]
    same(compiler, SHOP, left)


def test_profiles_that_nobody_has_any_more_are_forgotten() -> None:
    by_rack = tuple(replace(r, within=(*r.within, "rack")) for r in SHOP.rules)
    policy = replace(SHOP, rules=by_rack, tags={**SHOP.tags, "rack": ()})
    compiler = Compiler(policy, FLEET, TODAY)
    for number in range(3 * WORN):
        compiler.put(host("roaming", "10.9.9.9", app="shop", role="web", env="prod", rack=str(number)))
        compiler.settle()
    assert len(compiler._profiles) < 2 * WORN
    same(compiler, policy, {**FLEET.hosts, "roaming": compiler._hosts["roaming"].host})


def test_what_was_compiled_goes_with_the_last_reference() -> None:
    """Else it would stay until the garbage collector walks the whole controller."""
    by_app = replace(
        SHOP, boundaries=(*SHOP.boundaries, Boundary("by-process", Selector(workload="shop-web"), Selector()))
    )
    for policy in (SHOP, by_app):
        compiler = Compiler(policy, FLEET, TODAY)
        for name in FLEET.hosts:
            host_policy_bytes(compiler.body(name), name, 1, "d")
            assert compiler.host_policy(name, 1, "d")
        gc.collect()
        del compiler
        assert gc.collect() == 0
