"""Suggestions as one more policy file: what stands beside the files that are there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from segctl.model.policy import Policy
from segctl.suggest.result import Suggestion


def addition_of(suggestions: Iterable[Suggestion]) -> Policy:
    """Every declaration once."""
    chosen = tuple(suggestions)
    tags: dict[str, set[str]] = defaultdict(set)
    for one in chosen:
        for key, value in one.tags:
            tags[key].add(value)
    return Policy(
        tags={key: tuple(sorted(tags[key])) for key in sorted(tags)},
        services={s.name: s for one in chosen for s in one.services},
        peers={p.name: p for one in chosen for p in one.peers},
        workloads={w.name: w for one in chosen for w in one.workloads},
        rules=tuple(one.rule for one in chosen),
    )


def joined(policy: Policy, addition: Policy) -> Policy:
    """The policy with the file in its folder."""
    keys = dict.fromkeys((*policy.tags, *addition.tags))
    return replace(
        policy,
        tags={k: tuple(dict.fromkeys((*policy.tags.get(k, ()), *addition.tags.get(k, ())))) for k in keys},
        services={**policy.services, **addition.services},
        peers={**policy.peers, **addition.peers},
        workloads={**policy.workloads, **addition.workloads},
        rules=(*policy.rules, *addition.rules),
    )
