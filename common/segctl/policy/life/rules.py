"""What has become of rules: unused, past their day, without effect, broader than what they are used for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from segctl.model.inventory import Inventory
from segctl.model.policy import PLACEHOLDER, Policy, Rule
from segctl.policy.checks.coverage import covered_rules
from segctl.policy.checks.cuts import cut_rules
from segctl.policy.checks.terms import Terms, within_can_hold
from segctl.policy.decide import is_live
from segctl.policy.life.breadth import FAR_MORE, Ruler, Used
from segctl.policy.life.past import Age
from segctl.policy.life.season import DAY_US, day_of, today, usual_silence
from segctl.policy.render import render_rules

PATIENCE = 1.5
"""Usual silences that a rule may be silent for: a month has up to three days more than another one."""
NOBODY = frozenset({"", "-", "?", "n/a", "nobody", "none", "tbd", "todo", "unknown", PLACEHOLDER.lower()})
"""Owners that answer for nothing, in small letters."""


class Kind(StrEnum):
    """The most urgent first."""

    EXPIRED = "expired"
    EXPIRES_SOON = "expires-soon"
    REVIEW_DUE = "review-due"
    NO_OWNER = "no-owner"
    NO_EFFECT = "no-effect"
    SHADOWED = "shadowed"
    NEVER_HIT = "never-hit"
    STALE = "stale"
    TOO_BROAD = "too-broad"


@dataclass(frozen=True, slots=True)
class RuleFinding:
    """`narrower` is a policy file with the rule as it could be; only of what is too broad."""

    rule: str
    kind: Kind
    why: str
    mend: str
    narrower: str = ""


@dataclass(frozen=True, slots=True)
class Use:
    """What is known of a rule's hits. `last_us` 0: never; `days` since 1970 on which it was hit; `used` what it
    permitted lately."""

    last_us: int = 0
    days: frozenset[int] = frozenset()
    used: tuple[Used, ...] = ()


@dataclass(frozen=True, slots=True)
class Horizon:
    """`stale`: the least silence that counts; `soon`: how far ahead an end or a review is told; `young`: what is
    not so old yet has not shown what it is for."""

    stale: timedelta = timedelta(days=30)
    soon: timedelta = timedelta(days=30)
    young: timedelta = timedelta(days=7)


NEVER = Use()


@dataclass(frozen=True, slots=True)
class Evidence:
    """`ages` of the rules of the policy in force and `uses`, by name. `window_days`: how far back `used` reaches."""

    ages: Mapping[str, Age]
    uses: Mapping[str, Use]
    window_days: int
    horizon: Horizon = field(default_factory=Horizon)


def find_rule_findings(
    policy: Policy, inventory: Inventory, evidence: Evidence, now: datetime
) -> tuple[RuleFinding, ...]:
    """By rule in the order of the policy, the most urgent first."""
    look = _Look(policy, inventory, evidence, now)
    order = {kind: at for at, kind in enumerate(Kind)}
    return tuple(f for rule in policy.rules for f in sorted(look.at(rule), key=lambda f: order[f.kind]))


class _Look:
    def __init__(self, policy: Policy, inventory: Inventory, evidence: Evidence, now: datetime) -> None:
        terms = self._terms = Terms(policy)
        self._evidence, self._now = evidence, now
        self._ruler = Ruler(policy, inventory)
        self._cut = {rule.name: boundary.name for rule, boundary, whole in cut_rules(policy, terms, now) if whole}
        self._covered = {rule.name: (wide.name, same) for rule, wide, same in covered_rules(policy, terms, now)}

    def at(self, rule: Rule) -> Iterator[RuleFinding]:
        if rule.owner.lower() in NOBODY:
            mend = "name the team that answers for it, or remove it"
            yield RuleFinding(rule.name, Kind.NO_OWNER, f"its owner is {rule.owner or 'nobody'}", mend)
        if not is_live(rule, self._now):
            why = f"it expired on {rule.expires} and permits nothing"
            yield RuleFinding(rule.name, Kind.EXPIRED, why, "remove it, or give it a new date")
            return
        yield from self._dates(rule)
        if rule.name in self._cut:
            why = f"boundary {self._cut[rule.name]} denies all of it"
            yield RuleFinding(rule.name, Kind.NO_EFFECT, why, "remove the rule, or narrow the boundary")
            return
        if not self._can_apply(rule):
            why = "nothing can ever carry the tags that its ends and `within` ask for"
            yield RuleFinding(rule.name, Kind.NO_EFFECT, why, "remove it, or correct an end")
            return
        if rule.name in self._covered:
            wide, same = self._covered[rule.name]
            why = f"rule {wide} says the same" if same else f"rule {wide} permits all that it does"
            mend = "remove one of them" if same else f"remove it, or narrow {wide}"
            yield RuleFinding(rule.name, Kind.SHADOWED, why, mend)
        yield from self._usage(rule)

    def _can_apply(self, rule: Rule) -> bool:
        source, destination = self._terms.of(rule.source), self._terms.of(rule.destination)
        holds = within_can_hold(rule.within, source.known, destination.known)
        return source.possible and destination.possible and holds

    def _dates(self, rule: Rule) -> Iterator[RuleFinding]:
        soon = self._now + self._evidence.horizon.soon
        if rule.until is not None and rule.until <= soon:
            why = f"it permits until {rule.expires} and no longer"
            yield RuleFinding(rule.name, Kind.EXPIRES_SOON, why, "give it a new date if it is still needed")
        if rule.review is not None and rule.review <= soon.date():
            why = f"its review {'was' if rule.review < self._now.date() else 'is'} due on {rule.review}"
            yield RuleFinding(rule.name, Kind.REVIEW_DUE, why, "ask its owner, then set a new review date")

    def _usage(self, rule: Rule) -> Iterator[RuleFinding]:
        use = self._evidence.uses.get(rule.name, NEVER)
        age = self._evidence.ages.get(rule.name)
        now_us = int(self._now.timestamp() * 1_000_000)
        old = age is not None and now_us - age.since_us >= self._evidence.horizon.young / timedelta(microseconds=1)
        if age is not None and use.last_us < age.since_us and old:
            days = (now_us - age.since_us) // DAY_US
            nobody = "" if self._ruler.pairs(rule) else "; no enrolled host is at one of its ends"
            why = f"never hit in the {days} days {'' if age.known else 'or more '}that it has been in force{nobody}"
            yield RuleFinding(rule.name, Kind.NEVER_HIT, why, "ask its owner what it is for, or remove it")
            return
        yield from self._stale(rule, use)
        if old:
            yield from self._breadth(rule, use)

    def _stale(self, rule: Rule, use: Use) -> Iterator[RuleFinding]:
        if not use.last_us:
            return
        silent = today(self._now) - day_of(use.last_us)
        usual = usual_silence(use.days | {day_of(use.last_us)})
        if silent <= max(self._evidence.horizon.stale.days, PATIENCE * (usual or 0)):
            return
        known = f"it was hit at least every {usual} days before" if usual else "it was hit on few days only"
        why = f"no hit for {silent} days; {known}"
        yield RuleFinding(rule.name, Kind.STALE, why, "ask its owner whether it is still needed, or remove it")

    def _breadth(self, rule: Rule, use: Use) -> Iterator[RuleFinding]:
        found = self._ruler.measure(rule, use.used)
        if found is None or found.left * FAR_MORE > found.permitted:
            return
        why = (
            f"it permits {found.permitted:,} tuples of workloads and ports, of which {found.used:,} were used in the "
            f"last {self._evidence.window_days} days; the narrower rule permits {found.left:,}"
        )
        mend = "put the narrower rule in its place, unless the rest is meant for what comes rarely"
        yield RuleFinding(rule.name, Kind.TOO_BROAD, why, mend, render_rules([found.narrower]))
