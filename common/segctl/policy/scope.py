"""What the owner of a part of the fleet may change: pure.

A scope is a set of tags; the hosts that carry all of them are its *inside* (of several scopes: all of one). A change is
within the scope when it changes no permission towards anything outside, now or after any enrolment:

- A rule may come, go or change when it can only ever open processes inside: its destination names the scope's tags, by
  itself, by its workload's `on`, or by `within` and its source. Peers are outside.
- A mode may come for what is inside, and go when what stays is at least as strict: in observe, processes inside
  would pass boundaries on their way out.
- A test may come for a destination inside, and go when it says `allow`. What a `deny` test guards stays guarded.
- A workload may come, go or change when it is `on` hosts inside and has no tags of its own, while nothing depends on
  which process there is which: no boundary, mode or `deny` test that names a workload inside; and, unless it is new,
  no rule to the outside that does. Else its processes could be slipped in, or out, by another name.
- Services and peers may come. What is declared stays as it is, or other statements would mean something else.
- Vocabulary, boundaries and essentials stay.

Hosts have one set of addresses, and each end judges the other by address. So all processes of a host must be inside or
all outside: a workload whose own tags give it another value of the scope's tags than its host has rules scopes out.
Statements are compared as values: their file, place and order mean nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from segctl.model.findings import NOWHERE, Finding, Position
from segctl.model.policy import Boundary, ModeRule, Policy, Rule, Selector, Tags, Workload
from segctl.policy.checks.terms import Terms, error

Statement = TypeVar("Statement", bound=Hashable)
Named = TypeVar("Named")
Titled = TypeVar("Titled", Rule, Boundary)


def find_outside_scope(before: Policy, after: Policy, scopes: Sequence[Tags]) -> tuple[Finding, ...]:
    """An error for every difference that the owner of `scopes` may not make, by place; none: the change is within."""
    look = _Look(before, after, scopes)
    found = [
        *look.mixed_hosts(),
        *look.vocabulary(),
        *look.boundaries(),
        *look.rules(),
        *look.modes(),
        *look.tests(),
        *look.workloads(),
    ]
    return tuple(sorted(found))


class _Look:
    def __init__(self, before: Policy, after: Policy, scopes: Sequence[Tags]) -> None:
        self._before, self._after, self._scopes = before, after, scopes
        self._was, self._will = Terms(before), Terms(after)
        self._words = " or ".join(map(str, scopes))
        self._hint = f"the scope is {self._words}: ask an editor or administrator to push this"

    def _error(self, where: Position, message: str) -> Finding:
        return error(where, "outside-scope", message, self._hint)

    def mixed_hosts(self) -> Iterator[Finding]:
        for policy in (self._before, self._after):
            for workload in policy.workloads.values():
                for key in sorted({key for scope in self._scopes for key, _ in scope.pairs}):
                    own = workload.tags.get(key)
                    if own is not None and own != workload.on.get(key):
                        yield self._error(
                            workload.where,
                            f"workload {workload.name} has a tag {key} of its own, so its host may be inside and "
                            f"outside at once: no scope by {key} can hold",
                        )

    def vocabulary(self) -> Iterator[Finding]:
        before, after = self._before, self._after
        for key in sorted(before.tags.keys() | after.tags.keys()):
            if sorted(before.tags.get(key, ())) != sorted(after.tags.get(key, ())):
                yield self._error(NOWHERE, f"the values of the tag {key} are of the whole fleet, and change")
        yield from self._declared("service", before.services, after.services)
        yield from self._declared("peer", before.peers, after.peers)
        if (before.essentials, before.essentials.no_rescue) != (after.essentials, after.essentials.no_rescue):
            yield self._error(after.essentials.where, "the essentials are of the whole fleet, and change")

    def _declared(self, kind: str, was: Mapping[str, Named], will: Mapping[str, Named]) -> Iterator[Finding]:
        for name, old, new in _named(was, will):
            if old is not None:
                yield self._error(_where(new), f"{kind} {name} is of the whole fleet, and {_does(old, new)}")

    def boundaries(self) -> Iterator[Finding]:
        for name, old, new in _named(_by_name(self._before.boundaries), _by_name(self._after.boundaries)):
            yield self._error(_where(new), f"boundary {name} is of the whole fleet, and {_does(old, new)}")

    def rules(self) -> Iterator[Finding]:
        for name, old, new in _named(_by_name(self._before.rules), _by_name(self._after.rules)):
            opened = [
                str(rule.destination)
                for rule, terms in ((old, self._was), (new, self._will))
                if rule is not None and not self._opens_inside(rule, terms)
            ]
            if opened:
                what = " and ".join(dict.fromkeys(opened))
                yield self._error(_where(new), f"rule {name} {_does(old, new)}, and can open what is outside: {what}")

    def _opens_inside(self, rule: Rule, terms: Terms) -> bool:
        known = dict(terms.of(rule.destination).known)
        source = terms.of(rule.source).known
        if rule.destination.peer is None:
            known |= {key: source[key] for key in rule.within if key in source}
        return rule.destination.peer is None and self._carries(known)

    def _carries(self, known: Mapping[str, str]) -> bool:
        return any(all(known.get(key) == value for key, value in scope.pairs) for scope in self._scopes)

    def _inside(self, selector: Selector, terms: Terms) -> bool:
        """Names nothing outside."""
        return selector.peer is None and self._carries(terms.of(selector).known)

    def modes(self) -> Iterator[Finding]:
        for mode, comes in _changed(self._before.modes, self._after.modes):
            where, does = (mode.where, "comes") if comes else (NOWHERE, f"goes{_from(mode)}")
            if not self._inside(mode.select, self._will if comes else self._was):
                yield self._error(where, f"mode {mode.mode.value} of {mode.select} {does}, which is not inside alone")
            elif not comes and not self._as_strict(mode):
                yield self._error(
                    where, f"mode {mode.mode.value} of {mode.select} {does}, and no mode as strict is left"
                )

    def _as_strict(self, gone: ModeRule) -> bool:
        return any(
            mode.mode.strictness >= gone.mode.strictness
            and self._will.of(mode.select).covers(self._was.of(gone.select))
            for mode in self._after.modes
        )

    def tests(self) -> Iterator[Finding]:
        for test, comes in _changed(self._before.tests, self._after.tests):
            where, does = (test.where, "comes") if comes else (NOWHERE, f"goes{_from(test)}")
            words = f"the test {test.source} -> {test.destination} {does}"
            if not self._inside(test.destination, self._will if comes else self._was):
                yield self._error(where, f"{words}, and is not about what is inside alone")
            elif not comes and not test.allow:
                yield self._error(where, f"{words}, and what it denies must stay denied")

    def workloads(self) -> Iterator[Finding]:
        for name, old, new in _named(self._before.workloads, self._after.workloads):
            why = self._not_ours(old, new)
            if why:
                yield self._error(_where(new), f"workload {name} {_does(old, new)}, {why}")

    def _not_ours(self, old: Workload | None, new: Workload | None) -> str:
        both = [w for w in (old, new) if w is not None]
        if not all(self._carries(dict(w.on.pairs)) for w in both):
            return f"and is not on hosts inside alone (on: {self._words})"
        if any(w.tags.pairs for w in both):
            return "which has tags of its own: other rules may name them"
        leaning = next(self._leaning(is_new=old is None), None)
        return f"and {leaning} tells processes inside apart by their workload" if leaning else ""

    def _leaning(self, *, is_new: bool) -> Iterator[str]:
        """What tells one process inside from another, and would mean something else with other workloads."""
        policy, terms = self._before, self._was
        for boundary in policy.boundaries:
            if any(self._names_inside(s, terms) for s in (boundary.source, boundary.destination)):
                yield f"boundary {boundary.name} ({boundary.where})"
        for modes, of in ((policy.modes, terms), (self._after.modes, self._will)):
            for mode in modes:
                if self._names_inside(mode.select, of):
                    yield f"the mode of {mode.select} ({mode.where})"
        for test in policy.tests:
            if not test.allow and any(self._names_inside(s, terms) for s in (test.source, test.destination)):
                yield f"the test {test.source} -> {test.destination} ({test.where})"
        if not is_new:
            for rule in policy.rules:
                if not self._opens_inside(rule, terms) and any(
                    self._names_inside(s, terms) for s in (rule.source, rule.destination)
                ):
                    yield f"rule {rule.name} ({rule.where})"

    def _names_inside(self, selector: Selector, terms: Terms) -> bool:
        """Names a workload that may be on a host inside."""
        if selector.workload is None:
            return False
        known = terms.of(selector).known
        return any(all(known.get(key, value) == value for key, value in scope.pairs) for scope in self._scopes)


def _changed(was: Iterable[Statement], will: Iterable[Statement]) -> Iterator[tuple[Statement, bool]]:
    """What came (True) and what went; a statement that changed did both. Each as often as it did."""
    before, after = Counter(was), Counter(will)
    yield from ((statement, True) for statement in (after - before).elements())
    yield from ((statement, False) for statement in (before - after).elements())


def _by_name(statements: Iterable[Titled]) -> dict[str, Titled]:
    return {statement.name: statement for statement in statements}


def _named(was: Mapping[str, Named], will: Mapping[str, Named]) -> Iterator[tuple[str, Named | None, Named | None]]:
    """By name what it was and will be, where that differs; None where it is not there."""
    for name in sorted(was.keys() | will.keys()):
        if was.get(name) != will.get(name):
            yield name, was.get(name), will.get(name)


def _where(value: object) -> Position:
    found = getattr(value, "where", NOWHERE)
    return found if isinstance(found, Position) else NOWHERE


def _does(old: object, new: object) -> str:
    return "comes" if old is None else f"goes{_from(old)}" if new is None else "changes"


def _from(gone: object) -> str:
    """Where it stands, of what has no place in the new policy."""
    return f" (in force from {_where(gone)})" if _where(gone) != NOWHERE else ""
