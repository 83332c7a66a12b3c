"""What ages and what is left over: rules too wide, unfinished, past their day or due for review, and declarations that
nobody uses."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from segctl.model.findings import Finding
from segctl.model.policy import HOST_WORKLOAD, PLACEHOLDER, Policy, PortRange, Rule, Selector
from segctl.policy.checks.emptiness import live_selectors, test_selectors
from segctl.policy.checks.terms import covers_ports, error, warning
from segctl.policy.decide import is_live
from segctl.policy.ports import normalize

SOON = timedelta(days=30)
_INSTANT = timedelta.resolution
"""Before its end a rule still permits: one that ends at midnight has the day before as its last."""
_EVERY_PORT = (PortRange("tcp", 1, 65535), PortRange("udp", 1, 65535))


def find_wide_rules(policy: Policy) -> Iterator[Finding]:
    """Rules that allow every port of tcp or udp, or relate everything to everything."""
    for rule in policy.rules:
        if any(covers_ports(normalize(rule.ports), (every,)) for every in _EVERY_PORT):
            message = f"rule {rule.name} allows every port"
            yield warning(rule.where, "rule-everything", message, "name the services that are used")
        elif _is_everything(rule.source) and _is_everything(rule.destination) and not rule.within:
            message = f"rule {rule.name} allows {', '.join(rule.allow)} from everything to everything"
            yield warning(rule.where, "rule-everything", message, "name one end by tags, or relate them by within")


def find_placeholders(policy: Policy) -> Iterator[Finding]:
    """Proposed rules that nobody has made their own yet."""
    for rule in policy.rules:
        for key, text in (("owner", rule.owner), ("why", rule.why)):
            if text.upper() == PLACEHOLDER:
                hint = "say who answers for the rule" if key == "owner" else "say what the rule is for"
                yield error(rule.where, "placeholder", f"{key} of rule {rule.name} is still {PLACEHOLDER}", hint)


def find_misplaced_icmp(policy: Policy) -> Iterator[Finding]:
    """ICMP is answered by the kernel of a host: its ingress is the workload `host`'s, whatever a rule names."""
    for rule in policy.rules:
        icmp = [str(p) for p in rule.ports if p.protocol in ("icmp", "icmpv6")]
        if icmp and rule.destination.workload not in (None, HOST_WORKLOAD):
            message = (
                f"rule {rule.name} allows {', '.join(icmp)} to {rule.destination.workload}, which never receives it"
            )
            hint = "the host's kernel answers ICMP: select the destination by tags, or by workload: host"
            yield warning(rule.where, "icmp-to-workload", message, hint)


def _is_everything(selector: Selector) -> bool:
    return selector == Selector()


def find_aged_rules(policy: Policy, now: datetime) -> Iterator[Finding]:
    today = now.date()
    for rule in policy.rules:
        yield from _expiry(rule, now)
        if rule.review is not None and rule.review <= today + SOON and is_live(rule, now):
            when = "was" if rule.review < today else "is"
            message = f"the review of rule {rule.name} {when} due on {rule.review}"
            yield warning(rule.where, "review-due", message, "ask its owner, then set a new review date")


def _expiry(rule: Rule, now: datetime) -> Iterator[Finding]:
    if not is_live(rule, now):
        message = f"rule {rule.name} expired on {rule.expires} and permits nothing"
        yield warning(rule.where, "rule-expired", message, "remove it, or give it a new date")
    elif rule.until is not None and (rule.until - _INSTANT).date() <= now.date() + SOON:
        message = f"rule {rule.name} permits until {rule.expires} and no longer"
        yield warning(rule.where, "rule-expires", message, "give it a new date if it is still needed")


def find_unused(policy: Policy) -> Iterator[Finding]:
    """Declarations that no mode, boundary, rule, test or essential mentions."""
    selectors = [s for s, _ in (*live_selectors(policy), *test_selectors(policy))]
    named = {s.workload for s in selectors}
    pairs = {pair for s in selectors for pair in s.tags.pairs}
    for workload in policy.workloads.values():
        if workload.name not in named and not pairs & set(workload.tags.pairs):
            message = f"workload {workload.name} is used nowhere: no selector names it or a tag of its own"
            yield warning(workload.where, "unused-workload", message, "remove it, or give it a rule")
    words = {w for r in policy.rules for w in r.allow} | {w for t in policy.tests for w in t.services}
    # The rescue list keeps ports, not the words they came from.
    rescue = set(policy.essentials.rescue_ports) if policy.essentials.rescue else set()
    for service in policy.services.values():
        if service.name not in words and not set(service.ports) <= rescue:
            message = f"service {service.name} is used nowhere"
            yield warning(service.where, "unused-service", message, "remove it")
    peers = {s.peer for s in selectors}
    for peer in policy.peers.values():
        if peer.name not in peers:
            yield warning(peer.where, "unused-peer", f"peer {peer.name} is used nowhere", "remove it")
