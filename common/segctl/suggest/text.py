"""Suggestions as policy files, with what speaks for them and against them in comments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from segctl.model.policy import Policy, Selector
from segctl.policy.render import render_policy
from segctl.suggest.addition import addition_of
from segctl.suggest.result import Suggestion


def document(suggestions: Sequence[Suggestion]) -> str:
    """A policy file to stand beside those that are there; only `version: 1` where there is nothing to suggest."""
    if not suggestions:
        return "version: 1\n"
    notes = {one.rule.name: tuple(_notes(one)) for one in suggestions}
    return "\n".join(_with_notes(render_policy(addition_of(suggestions)).splitlines(), notes)) + "\n"


def whole(suggestion: Suggestion, policy: Policy) -> str:
    """A policy file that stands alone: the rule with all that it names, of the policy too."""
    addition, rule = addition_of([suggestion]), suggestion.rule
    ends: tuple[Selector, ...] = (rule.source, rule.destination)
    workloads = {w.name: w for e in ends if (w := policy.workloads.get(e.workload or "")) is not None}
    peers = {p.name: p for e in ends if (p := policy.peers.get(e.peer or "")) is not None}
    services = {name: policy.services[name] for name in rule.allow if name in policy.services}
    pairs = {*(p for e in ends for p in e.tags.pairs)}
    pairs |= {p for w in (*workloads.values(), *addition.workloads.values()) for p in (*w.on.pairs, *w.tags.pairs)}
    keys = sorted({*(key for key, _ in pairs), *rule.within, *addition.tags})
    tags = {
        key: tuple(sorted({v for k, v in pairs if k == key} | {*addition.tags.get(key, ()), *policy.tags.get(key, ())}))
        for key in keys
    }
    return render_policy(
        replace(
            addition,
            tags=tags,
            workloads={**workloads, **addition.workloads},
            peers={**peers, **addition.peers},
            services={**services, **addition.services},
        )
    )


def _with_notes(lines: Iterable[str], notes: dict[str, tuple[str, ...]]) -> Iterator[str]:
    for line in lines:
        name = line.removeprefix("- name: ")
        if name != line:
            yield from (f"# {note}" for note in notes.get(name, ()))
        yield line


def _notes(one: Suggestion) -> Iterator[str]:
    evidence, excess = one.evidence, one.excess
    hosts = f" of {evidence.of_hosts}" if evidence.of_hosts else ""
    flows = f"{evidence.flows:,} flow{'' if evidence.flows == 1 else 's'}"
    what = "hosts" if evidence.of_hosts else "address" if evidence.hosts == 1 else "addresses"
    yield (
        f"{one.id}: confidence {one.confidence.value}; {evidence.rhythm.value}, {flows} from {evidence.hosts}{hosts} "
        f"{what}"
    )
    more = excess.permitted - excess.seen
    if more:
        silent = f", {excess.silent} of them with an end that told nothing" if excess.silent else ""
        yield f"permits {more} of {excess.permitted} pairs of tag groups that were never seen{silent}"
    yield from one.remarks
