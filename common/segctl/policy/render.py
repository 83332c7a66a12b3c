"""From a `Policy` back to YAML: what a person would have written, in one file, and parses to an equal policy."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Any

import yaml

from segctl.model.policy import (
    Essentials,
    ModeRule,
    Network,
    Policy,
    PolicyTest,
    PortRange,
    Rule,
    Selector,
    Tags,
    Workload,
)
from segctl.policy.syntax.grammar import ANY_PORTS, ANY_SERVICE

_BASE: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_BASE):  # type: ignore[misc]  # the base is chosen at run time
    """Writes `on`, `yes` and `no` without quotes, as YAML 1.2 and the policy language read them."""

    def ignore_aliases(self, data: object) -> bool:
        """Anchors are not part of the language."""
        return True


_Dumper.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
}


def render_policy(policy: Policy) -> str:
    """YAML that `parse_policy` reads as a policy equal to `policy`."""
    sections: dict[str, object] = {
        "version": 1,
        "tags": {key: list(values) for key, values in policy.tags.items()},
        "services": {s.name: _ports(s.ports) for s in policy.services.values()},
        "peers": {p.name: _networks(p.networks) for p in policy.peers.values()},
        "workloads": {w.name: _workload(w) for w in policy.workloads.values()},
        "modes": [_mode(m) for m in policy.modes],
        "boundaries": [
            {"name": b.name, "from": _selector(b.source), "to": _selector(b.destination)} for b in policy.boundaries
        ],
        "rules": [_rule(r) for r in policy.rules],
        "tests": [_test(t) for t in policy.tests],
        "essentials": _essentials(policy.essentials),
    }
    said = {key: value for key, value in sections.items() if value}
    return _dump(said)


def render_rules(rules: Iterable[Rule]) -> str:
    """A policy file with these rules alone; other files must declare what they name."""
    return _dump({"version": 1, "rules": [_rule(r) for r in rules]})


def _dump(said: object) -> str:
    """Mappings and lists of words go on one line, everything above them in blocks."""
    return str(yaml.dump(said, Dumper=_Dumper, default_flow_style=None, sort_keys=False, allow_unicode=True, width=120))


def _tags(tags: Tags) -> dict[str, str]:
    return dict(tags.pairs)


def _selector(selector: Selector) -> dict[str, str]:
    if selector.peer is not None:
        return {"peer": selector.peer}
    named = {"workload": selector.workload} if selector.workload is not None else {}
    return {**named, **_tags(selector.tags)}


def _mode(rule: ModeRule) -> dict[str, object]:
    answers = {"outgoing": rule.outgoing, "incoming": rule.incoming}
    said = {key: answer.value for key, answer in answers.items() if answer is not None}
    return {"select": _selector(rule.select), "mode": rule.mode.value, **said}


def _workload(workload: Workload) -> dict[str, object]:
    process = {workload.process.kind.value: workload.process.pattern}
    more = {"tags": _tags(workload.tags)} if workload.tags.pairs else {}
    return {"on": _tags(workload.on), "process": process, **more}


def _rule(rule: Rule) -> dict[str, object]:
    fields: dict[str, object] = {
        "name": rule.name,
        "from": _selector(rule.source),
        "to": _selector(rule.destination),
        "within": list(rule.within),
        "allow": list(rule.allow),
        "owner": rule.owner,
        "why": rule.why,
        "review": rule.review,
        "expires": _end(rule),
    }
    return {key: value for key, value in fields.items() if value or key in ("from", "to")}


def _end(rule: Rule) -> date | str:
    """A day as YAML's own date, which is written without quotes."""
    text = rule.expires
    return text if not text or "T" in text else date.fromisoformat(text)


def _test(test: PolicyTest) -> dict[str, object]:
    verdict = "allow" if test.allow else "deny"
    return {"from": _selector(test.source), "to": _selector(test.destination), verdict: list(test.services)}


def _essentials(essentials: Essentials) -> dict[str, object]:
    fields: dict[str, object] = {"dns": _networks(essentials.dns), "ntp": _networks(essentials.ntp)}
    if essentials.no_rescue:
        fields["rescue"] = "none"
    if essentials.rescue:
        fields["rescue"] = {"from": _networks(essentials.rescue), "allow": _ports(essentials.rescue_ports)}
    return {key: value for key, value in fields.items() if value}


def _networks(networks: Iterable[Network]) -> list[str]:
    return [str(n.network_address if n.prefixlen == n.max_prefixlen else n) for n in networks]


def _ports(ports: Iterable[PortRange]) -> list[str]:
    """Literals; the ports of `any` go below what a literal can say, so they go by that name."""
    given = list(ports)
    words: list[str] = []
    if set(ANY_PORTS) <= set(given):
        words.append(ANY_SERVICE)
        given = [p for p in given if p not in ANY_PORTS]
    return words + [str(p) for p in given]
