"""The last look: together with the policy, suggestions bring no new error, break no test and open no boundary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from segctl.model.findings import Finding, Position, Severity
from segctl.model.inventory import Inventory
from segctl.model.policy import Policy, PolicyTest
from segctl.policy.check import check_policy
from segctl.policy.satisfy import run_tests
from segctl.suggest.addition import addition_of, joined
from segctl.suggest.result import Reason, Suggestion

Dropped = tuple[Suggestion, Reason, str]


def verified(
    suggestions: Sequence[Suggestion], policy: Policy, inventory: Inventory, now: datetime
) -> tuple[tuple[Suggestion, ...], list[Dropped]]:
    """Those that may be offered, and the others with the reason."""
    denials = tuple(test for test in policy.tests if not test.allow)
    held = {f.position for f in run_tests(replace(policy, tests=denials), now)}
    kept: list[Suggestion] = []
    dropped: list[Dropped] = []
    for one in suggestions:
        broken = _broken(one, policy, denials, now, held) if denials else None
        if broken is None:
            kept.append(one)
        else:
            dropped.append((one, Reason.TEST, f"the test at {broken.position} forbids it"))
    before = _errors(policy, inventory, now)
    while kept and (new := _errors(joined(policy, addition_of(kept)), inventory, now) - before):
        # A finding names rules; where it names none of ours, nothing is certain and nothing is offered.
        guilty = [one for one in kept if any(_names(finding, one) for finding in new)] or list(kept)
        why = min(new).message
        dropped += [(one, Reason.UNSAFE, f"segctl check would refuse it: {why}") for one in guilty]
        kept = [one for one in kept if one not in guilty]
    return tuple(kept), dropped


def _broken(
    one: Suggestion, policy: Policy, denials: tuple[PolicyTest, ...], now: datetime, known: set[Position]
) -> Finding | None:
    """The first test that the suggestion breaks by itself, of those that are not broken already."""
    alone = replace(joined(policy, addition_of([one])), rules=(one.rule,), tests=denials)
    return next((f for f in run_tests(alone, now) if f.position not in known), None)


def _errors(policy: Policy, inventory: Inventory, now: datetime) -> set[Finding]:
    return {f for f in check_policy(policy, inventory, now) if f.severity is Severity.ERROR}


def _names(finding: Finding, one: Suggestion) -> bool:
    words = finding.message.replace(",", " ").replace(":", " ").split()
    return one.rule.name in words
