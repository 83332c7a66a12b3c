"""The simulated fleet's hosts and policy: of the size asked for, without a mistake in it, and always the same."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from segctl.policy.check import check_policy
from segctl.policy.parse import parse_policy

from bench.fleet.policies import bulk_policy, fleet_hosts, fleet_policy

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_policy_has_the_rules_asked_for_and_no_finding() -> None:
    parsed = parse_policy(fleet_policy())
    assert parsed.policy is not None
    assert len(parsed.policy.rules) == 5_000
    assert check_policy(parsed.policy, None, NOW) == ()


def test_a_policy_of_more_rules_than_there_is_to_say_is_refused() -> None:
    with pytest.raises(ValueError, match="ask for fewer"):
        fleet_policy(apps=10, envs=1, rules=5_000)


def test_every_host_carries_declared_tags_and_addresses_of_its_own() -> None:
    hosts = fleet_hosts(500, addresses=2)
    policy = parse_policy(fleet_policy()).policy
    assert policy is not None
    for host in hosts:
        assert dict(host.tags.pairs).keys() == policy.tags.keys()
        assert all(value in policy.tags[key] for key, value in host.tags.pairs)
    assert len({a for host in hosts for a in host.addresses}) == 1000


def test_a_small_fleet_is_the_beginning_of_a_large_one() -> None:
    assert fleet_hosts(50) == fleet_hosts(80)[:50]
    assert fleet_policy() == fleet_policy()


def test_turns_of_a_bulk_policy_have_no_rule_in_common() -> None:
    one, other = (parse_policy(bulk_policy(4_000, turn)).policy for turn in (0, 1))
    assert one is not None
    assert other is not None
    assert len(one.rules) == len(other.rules) > 10
    assert not {rule.name for rule in one.rules} & {rule.name for rule in other.rules}
