"""Tests that are part of the policy."""

from __future__ import annotations

from dataclasses import replace

from segctl.model.policy import Policy, PolicyTest, PortRange, Selector
from segctl.policy.satisfy import run_tests

from tests.shop import HTTP, POSTGRES, SHOP, SSH, TODAY, rule, sel


def holds(source: Selector, destination: Selector, port: PortRange, *, allow: bool, policy: Policy = SHOP) -> bool:
    test = PolicyTest(source, destination, allow, (str(port),), (port,))
    return not run_tests(replace(policy, tests=(test,)), TODAY)


def test_allow_holds_for_a_host_with_just_these_tags() -> None:
    assert holds(sel("shop-web", env="prod"), sel("shop-db", env="prod"), POSTGRES, allow=True)
    assert not holds(sel("shop-web"), sel("shop-db"), POSTGRES, allow=True)  # env unknown: within cannot be certain
    assert not holds(sel("shop-web", env="dev"), sel("shop-db", env="prod"), POSTGRES, allow=True)


def test_deny_speaks_of_every_host_that_could_exist() -> None:
    assert holds(sel(env="dev"), sel(env="prod"), POSTGRES, allow=False)
    assert not holds(sel(app="shop"), sel(app="shop"), POSTGRES, allow=False)
    assert not holds(sel(env="prod"), sel(env="prod"), SSH, allow=False)  # a bastion could be in prod
    assert holds(sel("shop-web"), sel(role="bastion"), POSTGRES, allow=False)


def test_deny_survives_only_a_boundary_that_is_certain() -> None:
    open_all = replace(SHOP, rules=(rule("all", sel(), sel(), SSH),))
    assert holds(sel(env="dev"), sel(env="prod"), SSH, allow=False, policy=open_all)
    assert not holds(sel(env="dev"), sel(), SSH, allow=False, policy=open_all)


def test_within_makes_a_deny_hold() -> None:
    no_boundary = replace(SHOP, boundaries=())
    assert holds(sel("shop-web", env="dev"), sel("shop-db", env="prod"), POSTGRES, allow=False, policy=no_boundary)


def test_peers_count_by_their_addresses() -> None:
    assert not holds(sel(peer="office"), sel("shop-web"), HTTP, allow=True)  # the guests' half is cut by a boundary
    assert holds(sel(peer="guests"), sel("shop-web"), HTTP, allow=False)
    assert not holds(sel(peer="office"), sel("shop-web"), HTTP, allow=False)
    assert not holds(sel(peer="any"), sel("shop-web"), HTTP, allow=False)


def test_an_expired_rule_permits_nothing() -> None:
    assert holds(sel(role="bastion"), sel("shop-web"), HTTP, allow=False)


def test_a_failure_names_test_and_rule() -> None:
    test = PolicyTest(sel("shop-web"), sel("shop-db"), False, ("postgres",), (POSTGRES,))
    (finding,) = run_tests(replace(SHOP, tests=(test,)), TODAY)
    assert finding.code == "test-failed"
    assert "web-to-db" in finding.message
