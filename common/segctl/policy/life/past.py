"""What the generations before said: since when a rule is as it is, and a selector in its mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segctl.model.policy import Mode, Policy, Rule, Selector
from segctl.policy.checks.terms import Terms


@dataclass(frozen=True, slots=True)
class Said:
    """One generation, as far as its age matters. `rules` are hashes of their names and meanings, which hold within one
    process; `modes` is a policy of the modes and workloads alone."""

    at_us: int
    rules: frozenset[int]
    modes: Policy

    @property
    def size(self) -> int:
        """In statements."""
        return len(self.rules) + len(self.modes.modes) + len(self.modes.workloads)


def said(policy: Policy, at_us: int) -> Said:
    modes = Policy(modes=policy.modes, workloads=policy.workloads)
    return Said(at_us, frozenset(map(_meaning, policy.rules)), modes)


def _meaning(rule: Rule) -> int:
    """Owner, reason and dates may change: it permits the same."""
    return hash((rule.name, rule.source, rule.destination, rule.within, rule.ports))


@dataclass(frozen=True, slots=True)
class Age:
    """`known` is False where the history that was looked at does not reach back so far: it is at least so old."""

    since_us: int
    known: bool


class Past:
    """`generations` are confirmed ones, the newest first; `whole`: they reach back to the first one."""

    def __init__(self, generations: Sequence[Said], whole: bool) -> None:
        self._generations = tuple(generations)
        self._whole = whole
        self._modes: list[tuple[int, Policy]] = []
        for generation in self._generations:  # most pushes change rules alone
            if self._modes and self._modes[-1][1] == generation.modes:
                self._modes[-1] = (generation.at_us, self._modes[-1][1])
            else:
                self._modes.append((generation.at_us, generation.modes))

    def rules(self, policy: Policy) -> Mapping[str, Age]:
        """Since when each rule of the policy in force permits what it does, by name."""
        left = {_meaning(rule): rule.name for rule in policy.rules}
        ages: dict[str, Age] = {}
        since_us = 0
        for generation in self._generations:
            gone = left.keys() - generation.rules
            ages |= {left.pop(one): Age(since_us, True) for one in gone}
            since_us = generation.at_us
        return ages | {name: Age(since_us, self._whole) for name in left.values()}

    def phase(self, selector: Selector, mode: Mode) -> Age:
        """Since when everything that the selector names is in this mode, or a stricter one."""
        since_us = 0
        for began_us, modes in self._modes:
            if mode_of(modes, selector).strictness < mode.strictness:
                return Age(since_us, True)
            since_us = began_us
        return Age(since_us, self._whole)


def mode_of(policy: Policy, selector: Selector) -> Mode:
    """The strictest of the modes that hold for everything the selector names; observe where none does."""
    terms = Terms(policy)
    wanted = terms.of(selector)
    holding = (m.mode for m in policy.modes if terms.of(m.select).covers(wanted))
    return max(holding, key=lambda mode: mode.strictness, default=Mode.OBSERVE)
