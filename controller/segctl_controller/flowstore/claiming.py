"""Flows of processes that no workload had when they were seen, and one has now: most policies are written after what
was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segctl.model.policy import Policy
from segctl.suggest.identify import Identifier, Kind, Who
from segctl.suggest.observed import ObservedEnd
from sqlalchemy import Select, select

from segctl_controller.flowstore.database import Work
from segctl_controller.flowstore.decisions import parse_tags
from segctl_controller.flowstore.dictionary import NONE, Dictionary
from segctl_controller.flowstore.queries import r, within

Unclaimed = tuple[int, int, int]
"""Numbers of a tag group, a workload and a process."""


class Claims:
    """Which workload of a policy a process belongs to."""

    def __init__(self, policy: Policy) -> None:
        self.declared = frozenset(policy.workloads)
        self._identifier = Identifier(policy, ())
        self._known: dict[tuple[str, str], str] = {}

    def of(self, tags: str, workload: str, process: str) -> str:
        """The workload of today; the one that was told where the policy still declares it, or none has the process."""
        if workload in self.declared or not process or not self.declared:
            return workload
        found = self._known.get((tags, process))
        if found is None:
            who = self._identifier.who(ObservedEnd(parse_tags(tags), "", process))
            claimed = isinstance(who, Who) and who.kind is Kind.WORKLOAD
            found = self._known[tags, process] = who.name if isinstance(who, Who) and claimed else ""
        return found or workload


@dataclass(frozen=True, slots=True)
class Claimed:
    """The number of the workload that has each today. `names` are of numbers that no row has: they are negative."""

    into: Mapping[Unclaimed, int]
    names: Mapping[int, str]


NOTHING = Claimed({}, {})


def claimed(
    work: Work,
    texts: Dictionary,
    claims: Claims | None,
    tags_of: Mapping[int, str | None],
    since_us: int,
    until_us: int,
) -> Claimed:
    """Of what was seen in that time. `tags_of` has the tags of each group's number, those at least that the policy
    asks for."""
    if claims is None or not claims.declared:
        return NOTHING
    numbers = {name: texts.find(name) for name in sorted(claims.declared)}
    known = [number for number in numbers.values() if number is not None]
    into: dict[Unclaimed, int] = {}
    new: dict[str, int] = {}
    for tags, workload, process in work.rows(_unclaimed(since_us, until_us, known)):
        told = texts.text(workload)
        name = claims.of(tags_of.get(tags) or "", told, texts.text(process))
        if name != told:
            number = numbers[name]
            into[tags, workload, process] = new.setdefault(name, -1 - len(new)) if number is None else number
    return Claimed(into, {number: name for name, number in new.items()})


def _unclaimed(since_us: int, until_us: int, declared: Sequence[int]) -> Select[tuple[int, int, int]]:
    seen = (within(since_us, until_us), r.process != NONE, r.workload.not_in(declared))
    return select(r.tags, r.workload, r.process).where(*seen).distinct()
