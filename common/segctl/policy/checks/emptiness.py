"""Statements about nothing: selectors that no host answers to, relations that cannot hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import reduce

from segctl.model.findings import Finding
from segctl.model.inventory import Inventory
from segctl.model.policy import HOST_WORKLOAD, Policy, Selector, Tags
from segctl.policy.checks.terms import Terms, warning, within_can_hold


def live_selectors(policy: Policy) -> Iterator[tuple[Selector, str]]:
    """The selectors that do something, with the statement they are part of; those of tests are not among them."""
    for mode in policy.modes:
        yield mode.select, f"mode {mode.mode.value}"
    for boundary in policy.boundaries:
        yield boundary.source, f"from of boundary {boundary.name}"
        yield boundary.destination, f"to of boundary {boundary.name}"
    for rule in policy.rules:
        yield rule.source, f"from of rule {rule.name}"
        yield rule.destination, f"to of rule {rule.name}"


def test_selectors(policy: Policy) -> Iterator[tuple[Selector, str]]:
    for test in policy.tests:
        yield test.source, "from of a test"
        yield test.destination, "to of a test"


def find_empty_selectors(policy: Policy, terms: Terms, inventory: Inventory | None) -> Iterator[Finding]:
    """Without an inventory, what can never match; with one, also what matches no enrolled host today."""
    for selector, what in (*live_selectors(policy), *test_selectors(policy)):
        if not terms.of(selector).possible:
            workload = policy.workloads[selector.workload or ""]
            message = f"{what} matches nothing: workload {workload.name} carries {workload.on.merged(workload.tags)}"
            hint = f"drop the tags that contradict it, or correct `on` of {workload.name}"
            yield warning(selector.where, "selector-empty", message, hint)
    if inventory is not None:
        index = _HostIndex(policy, inventory)
        for selector, what in live_selectors(policy):
            if terms.of(selector).possible and selector.peer is None and not index.answers(selector):
                message = f"{what} matches none of the {len(inventory.hosts)} enrolled hosts: {selector}"
                yield warning(selector.where, "selector-empty", message, "enrol or tag a host, or correct the selector")


def find_impossible_rules(policy: Policy, terms: Terms) -> Iterator[Finding]:
    for rule in policy.rules:
        source, destination = terms.of(rule.source).known, terms.of(rule.destination).known
        if not within_can_hold(rule.within, source, destination):
            message = f"rule {rule.name} never permits anything: its ends differ in {', '.join(rule.within)}"
            yield warning(rule.where, "rule-never", message, "remove the key from within, or correct an end")


class _HostIndex:
    """Answers whether a selector names anything enrolled, by intersecting sets of hosts by tag."""

    def __init__(self, policy: Policy, inventory: Inventory) -> None:
        self._policy = policy
        self._everyone = frozenset(inventory.hosts)
        self._answers: dict[Selector, bool] = {}
        by_pair: dict[tuple[str, str], set[str]] = defaultdict(set)
        for host in inventory.hosts.values():
            for pair in host.tags.pairs:
                by_pair[pair].add(host.name)
        self._by_pair = {pair: frozenset(names) for pair, names in by_pair.items()}

    def answers(self, selector: Selector) -> bool:
        if selector not in self._answers:
            self._answers[selector] = self._look(selector)
        return self._answers[selector]

    def _look(self, selector: Selector) -> bool:
        if selector.workload == HOST_WORKLOAD:
            return bool(self._carriers(selector.tags))
        if selector.workload is not None:
            return self._workload_answers(selector.workload, selector.tags)
        return bool(self._carriers(selector.tags)) or any(
            self._workload_answers(w.name, selector.tags)
            for w in self._policy.workloads.values()
            if set(w.tags.pairs) & set(selector.tags.pairs)
        )

    def _workload_answers(self, name: str, wanted: Tags) -> bool:
        workload = self._policy.workloads[name]
        if workload.tags.conflicts(wanted):
            return False
        of_host = set(wanted.pairs) - set(workload.tags.pairs)
        return bool(self._carriers(workload.on) & self._carriers(Tags.of(of_host)))

    def _carriers(self, tags: Tags) -> frozenset[str]:
        sets = sorted((self._by_pair.get(pair, frozenset()) for pair in tags.pairs), key=len)
        return reduce(frozenset.__and__, sets) if sets else self._everyone
