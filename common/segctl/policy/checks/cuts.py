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
    """One warning a rule: for the first boundary that denies all of it, or else for the first that denies a part."""
    for rule in policy.rules:
        if not is_live(rule, now):
            continue
        whole = next((b for b in policy.boundaries if cuts_wholly(terms, b, rule)), None)
        if whole:
            message = f"rule {rule.name} permits nothing: boundary {whole.name} ({whole.where}) denies all of it"
            yield warning(rule.where, "rule-cut", message, "remove the rule, or narrow the boundary")
            continue
        part = next((b for b in policy.boundaries if _cuts_partly(terms, b, rule)), None)
        if part:
            message = f"boundary {part.name} ({part.where}) denies a part of what rule {rule.name} allows"
            hint = "name in the rule only what the boundary leaves, so that the rule says what it does"
            yield warning(rule.where, "rule-narrowed", message, hint)


def _cuts_partly(terms: Terms, boundary: Boundary, rule: Rule) -> bool:
    sources = terms.of(boundary.source), terms.of(rule.source)
    destinations = terms.of(boundary.destination), terms.of(rule.destination)
    if not (sources[0].meets(sources[1]) and destinations[0].meets(destinations[1])):
        return False
    source = {**sources[0].known, **sources[1].known}
    destination = {**destinations[0].known, **destinations[1].known}
    return within_can_hold(rule.within, source, destination)
