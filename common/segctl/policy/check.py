"""What is wrong with a policy that parses: what `segctl check` prints and what refuses a push."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from segctl.model.findings import Finding
from segctl.model.inventory import Address, Inventory
from segctl.model.policy import Policy
from segctl.policy.checks.access import find_lost_access
from segctl.policy.checks.claims import find_incoming_by_group, find_rival_workloads
from segctl.policy.checks.coverage import find_covered_rules
from segctl.policy.checks.cuts import find_cut_rules
from segctl.policy.checks.emptiness import find_empty_selectors, find_impossible_rules
from segctl.policy.checks.enrolled import find_hosts_without_mode, find_peers_over_hosts
from segctl.policy.checks.hygiene import (
    find_aged_rules,
    find_misplaced_icmp,
    find_placeholders,
    find_unused,
    find_wide_rules,
)
from segctl.policy.checks.meeting import find_rights_that_meet
from segctl.policy.checks.terms import Terms
from segctl.policy.satisfy import run_tests


def check_policy(
    policy: Policy, inventory: Inventory | None, now: datetime, controller: Sequence[Address] = ()
) -> tuple[Finding, ...]:
    """Every finding, by place. Errors: a policy test that fails, a policy that locks its people
    out, and an unfinished rule.

    `inventory` None, or without hosts: what holds for any fleet. `now` is the day in UTC. `controller` addresses are
    a proposal for a missing rescue list; the agents' channel is an essential that no policy can cut.
    """
    if inventory is not None and not inventory.hosts:
        inventory = None
    terms = Terms(policy)
    found = {
        *run_tests(policy, now),
        *find_rights_that_meet(policy, inventory, now),
        *find_lost_access(policy, terms, inventory, now, controller),
        *find_empty_selectors(policy, terms, inventory),
        *find_impossible_rules(policy, terms),
        *find_covered_rules(policy, terms, now),
        *find_cut_rules(policy, terms, now),
        *find_wide_rules(policy),
        *find_placeholders(policy),
        *find_misplaced_icmp(policy),
        *find_aged_rules(policy, now),
        *find_unused(policy),
        *find_rival_workloads(policy),
        *find_incoming_by_group(policy),
        *find_hosts_without_mode(policy, inventory),
        *find_peers_over_hosts(policy, inventory),
    }
    return tuple(sorted(found))
