"""The policy's own tests.

`allow` must hold for a host that carries just the tags the test names. `deny` must hold for every host that could ever
carry them: it fails when some rule could permit some such pair and no boundary is certain to deny it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from segctl.model.findings import Finding, Severity
from segctl.model.policy import (
    HOST_WORKLOAD,
    Boundary,
    Network,
    Policy,
    PolicyTest,
    PortRange,
    Rule,
    Selector,
    Tags,
)
from segctl.policy.decide import is_live, peer_networks
from segctl.policy.networks import exclude


@dataclass(frozen=True, slots=True)
class _Some:
    """Any instance that carries at least `tags`, of `workload` where that is known; or addresses of a peer."""

    tags: Tags
    workload: str | None
    networks: tuple[Network, ...] | None = None


def run_tests(policy: Policy, now: datetime) -> tuple[Finding, ...]:
    """A finding for every test that the policy breaks, at the test's own place."""
    return tuple(f for test in policy.tests for port in test.ports for f in _run(policy, test, port, now))


def _run(policy: Policy, test: PolicyTest, port: PortRange, now: datetime) -> list[Finding]:
    what = f"{test.source} -> {test.destination} {port}"
    source, destination = _some(policy, test.source), _some(policy, test.destination)
    rules = [r for r in policy.rules if is_live(r, now)]
    if test.allow:
        if any(_permits(policy, r, source, destination, port) for r in rules):
            return []
        cut = next((b for b in policy.boundaries if _may_cut(policy, b, source, destination)), None)
        why = f"boundary {cut.name} denies it" if cut else "no rule permits it"
        hint = "add a rule, or correct the test"
        return [Finding(test.where, Severity.ERROR, "test-failed", f"test: {what} must be allowed, but {why}", hint)]
    for rule in rules:
        if _could_permit(policy, rule, source, destination, port):
            message = f"test: {what} must be denied, but rule {rule.name} ({rule.where}) can permit it"
            hint = "narrow the rule, add a boundary, or correct the test"
            return [Finding(test.where, Severity.ERROR, "test-failed", message, hint)]
    return []


def _some(policy: Policy, selector: Selector) -> _Some:
    if selector.peer is not None:
        return _Some(Tags(), None, peer_networks(policy, selector.peer))
    return _Some(_implied(policy, selector), selector.workload)


def _implied(policy: Policy, selector: Selector) -> Tags:
    """The tags that every instance named by the selector carries."""
    workload = policy.workloads.get(selector.workload) if selector.workload else None
    base = workload.on.merged(workload.tags) if workload else Tags()
    return base.merged(selector.tags)


def _permits(policy: Policy, rule: Rule, source: _Some, destination: _Some, port: PortRange) -> bool:
    """Certain to permit: the rule names everything that the two sides stand for, and no boundary takes it away."""
    if not any(p.covers(port) for p in rule.ports):
        return False
    if not (_surely(policy, rule.source, source) and _surely(policy, rule.destination, destination)):
        return False
    if any(source.tags.get(k) is None or source.tags.get(k) != destination.tags.get(k) for k in rule.within):
        return False
    return not any(_may_cut(policy, b, source, destination) for b in policy.boundaries)


def _may_cut(policy: Policy, boundary: Boundary, source: _Some, destination: _Some) -> bool:
    """Denies a host with just these tags, or some address of the peer."""
    return all(
        _overlaps(policy, s, x) if x.networks is not None else _surely(policy, s, x)
        for s, x in ((boundary.source, source), (boundary.destination, destination))
    )


def _surely(policy: Policy, selector: Selector, some: _Some) -> bool:
    """The selector names every instance, or every address, that `some` stands for."""
    if some.networks is not None:
        return selector.peer is not None and not exclude(some.networks, peer_networks(policy, selector.peer))
    if selector.peer is not None:
        return False
    # A test that names no workload speaks of the host's own processes for `allow`: the workload `host`.
    if selector.workload is not None and selector.workload != (some.workload or HOST_WORKLOAD):
        return False
    return some.tags.includes(selector.tags)


def _overlaps(policy: Policy, selector: Selector, some: _Some) -> bool:
    """The selector may name an instance, or names an address, that `some` stands for."""
    if some.networks is not None:
        if selector.peer is None:
            return False
        theirs = peer_networks(policy, selector.peer)
        return exclude(some.networks, theirs) != exclude(some.networks, ())
    if selector.peer is not None:
        return False
    if None not in (selector.workload, some.workload) and selector.workload != some.workload:
        return False
    return not some.tags.conflicts(_implied(policy, selector))


def _could_permit(policy: Policy, rule: Rule, source: _Some, destination: _Some, port: PortRange) -> bool:
    if not any(p.overlaps(port) for p in rule.ports):
        return False
    if not (_overlaps(policy, rule.source, source) and _overlaps(policy, rule.destination, destination)):
        return False
    narrowed = _narrow(policy, rule, source, destination)
    if narrowed is None:
        return False
    a, b = narrowed
    return not any(
        _certain(policy, boundary.source, a) and _certain(policy, boundary.destination, b)
        for boundary in policy.boundaries
    )


def _narrow(policy: Policy, rule: Rule, source: _Some, destination: _Some) -> tuple[_Some, _Some] | None:
    """What the two sides must be for the rule to apply to them, `within` included; None when they cannot be."""
    a, b = _meet(policy, rule.source, source), _meet(policy, rule.destination, destination)
    shared: dict[str, str] = {}
    for key in rule.within:
        mine, theirs = a.tags.get(key), b.tags.get(key)
        if mine is not None and theirs is not None and mine != theirs:
            return None
        value = mine or theirs
        if value is not None:
            shared[key] = value
    more = Tags.of(shared)
    if a.networks is None:
        a = _Some(a.tags.merged(more), a.workload)
    if b.networks is None:
        b = _Some(b.tags.merged(more), b.workload)
    return a, b


def _meet(policy: Policy, selector: Selector, some: _Some) -> _Some:
    if some.networks is not None:
        outside = exclude(some.networks, peer_networks(policy, selector.peer or ""))
        return _Some(Tags(), None, exclude(some.networks, outside))
    return _Some(some.tags.merged(_implied(policy, selector)), some.workload or selector.workload)


def _certain(policy: Policy, selector: Selector, some: _Some) -> bool:
    """The selector names everything that `some` could be; an unknown workload could be any."""
    if some.networks is not None:
        return selector.peer is not None and not exclude(some.networks, peer_networks(policy, selector.peer))
    if selector.peer is not None or (selector.workload is not None and selector.workload != some.workload):
        return False
    return some.tags.includes(selector.tags)
