"""What was decided about suggestions, and how that shapes the next ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from segctl.model.policy import Policy
from segctl.policy.parse import parse_policy
from segctl.policy.source import SourceFile
from segctl.suggest.result import Refused

from segctl_controller.store.records import DecisionRecord

ACCEPTED, EDITED, REJECTED, FORGOTTEN = VERDICTS = ("accepted", "edited", "rejected", "forgotten")


@lru_cache(maxsize=10_000)
def parsed(text: str) -> Policy | None:
    """A policy file that stands alone and has one rule; None for anything else."""
    found = parse_policy((SourceFile("suggestion", text.encode()),)).policy
    return found if found is not None and len(found.rules) == 1 else None


def rule_name(text: str) -> str:
    policy = parsed(text)
    return policy.rules[0].name if policy else ""


def refused(decisions: Iterable[DecisionRecord]) -> Iterator[Refused]:
    """What must not be suggested again: what was rejected, and what somebody edited and so did not want as it was."""
    for one in decisions:
        policy = parsed(one.suggested)
        if one.verdict == ACCEPTED or policy is None:
            continue
        why = one.reason or ("edited, and accepted as that" if one.verdict == EDITED else "no reason given")
        yield Refused(policy.rules[0], one.actor, why, tuple(policy.workloads.values()), tuple(policy.peers.values()))
