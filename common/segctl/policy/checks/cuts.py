"""Rules that a boundary denies, wholly or in part."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from segctl.model.findings import Finding
from segctl.model.policy import Boundary, Policy, Rule
from segctl.policy.checks.terms import Terms, warning, within_can_hold
from segctl.policy.decide import is_live


def cuts_wholly(terms: Terms, boundary: Boundary, rule: Rule) -> bool:
    source, destination = terms.of(boundary.source), terms.of(boundary.destination)
    return source.covers(terms.of(rule.source)) and destination.covers(terms.of(rule.destination))


def find_cut_rules(policy: Policy, terms: Terms, now: datetime) -> Iterator[Finding]:
    """One warning a rule that a boundary cuts."""
    for rule, boundary, whole in cut_rules(policy, terms, now):
        if whole:
            message = f"rule {rule.name} permits nothing: boundary {boundary.name} ({boundary.where}) denies all of it"
            yield warning(rule.where, "rule-cut", message, "remove the rule, or narrow the boundary")
        else:
            message = f"boundary {boundary.name} ({boundary.where}) denies a part of what rule {rule.name} allows"
            hint = "name in the rule only what the boundary leaves, so that the rule says what it does"
            yield warning(rule.where, "rule-narrowed", message, hint)


def cut_rules(policy: Policy, terms: Terms, now: datetime) -> Iterator[tuple[Rule, Boundary, bool]]:
    """Each rule that is cut, with the first boundary that denies all of it, or else the first that denies a part; and
    whether it is all."""
    for rule in policy.rules:
        if not is_live(rule, now):
            continue
        whole = next((b for b in policy.boundaries if cuts_wholly(terms, b, rule)), None)
        part = next((b for b in policy.boundaries if _cuts_partly(terms, b, rule)), None) if whole is None else None
        boundary = whole or part
        if boundary is not None:
            yield rule, boundary, whole is not None


def _cuts_partly(terms: Terms, boundary: Boundary, rule: Rule) -> bool:
    sources = terms.of(boundary.source), terms.of(rule.source)
    destinations = terms.of(boundary.destination), terms.of(rule.destination)
    if not (sources[0].meets(sources[1]) and destinations[0].meets(destinations[1])):
        return False
    source = {**sources[0].known, **sources[1].known}
    destination = {**destinations[0].known, **destinations[1].known}
    return within_can_hold(rule.within, source, destination)
