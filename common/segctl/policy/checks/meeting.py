"""Tests that no single rule breaks and the enrolled hosts break all the same: where two rules meet."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from segctl.model.findings import Finding, Severity
from segctl.model.inventory import Inventory
from segctl.model.policy import Policy
from segctl.policy.decide import Instance, selects
from segctl.policy.diff import Node, matrix
from segctl.policy.ports import intersect
from segctl.policy.satisfy import run_tests


def find_rights_that_meet(policy: Policy, inventory: Inventory | None, now: datetime) -> Iterator[Finding]:
    """A `deny` test speaks of pairs that one rule could open. Hosts cannot tell each other's processes apart, so a rule
    for one workload may let another of the same host through: what is permitted in this fleet is looked at whole."""
    broken = {f.position for f in run_tests(policy, now)}
    tests = [t for t in policy.tests if not t.allow and t.where not in broken]
    if inventory is None or not tests:
        return
    for (source, destination), permission in sorted(matrix(policy, inventory, now).items(), key=lambda item: item[0]):
        if source.peer or destination.peer:
            continue
        for test in tests:
            if not (selects(test.source, _instance(source)) and selects(test.destination, _instance(destination))):
                continue
            met = intersect(permission.ports, test.ports)
            if met:
                message = (
                    f"test: {test.source} -> {test.destination} {met[0]} must be denied, but two rules meet on the"
                    f" enrolled hosts: {source} reaches {destination}, since each end is opened for a neighbour"
                )
                hint = "give the two services different ports or hosts, or add a boundary"
                yield Finding(test.where, Severity.ERROR, "test-failed", message, hint)


def _instance(node: Node) -> Instance:
    return Instance("", node.workload, node.tags, node.host_tags)
