"""Flows of processes that another workload had when they were seen, or none: most policies are written after what was
seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from segctl.model.policy import HOST_WORKLOAD, Policy, ProcessKind, Workload
from segctl.model.processes import CONTAINER, UNIT
from segctl.model.units import SLICE
from segctl.policy.checks.globs import is_glob
from segctl.suggest.identify import LOGINS, Identifier
from sqlalchemy import Select, select

from segctl_controller.flowstore.database import Work
from segctl_controller.flowstore.decisions import parse_tags
from segctl_controller.flowstore.dictionary import NONE, Dictionary
from segctl_controller.flowstore.queries import r, within

Unclaimed = tuple[int, int, int]
"""Numbers of a tag group, a workload and a process."""
_KINDS = (
    ProcessKind.EXECUTABLE,
    ProcessKind.CGROUP,
    SLICE,
    ProcessKind.CONTAINER,
    ProcessKind.UNIT,
    ProcessKind.USER,
    ProcessKind.GROUP,
)
"""In the order in which an agent asks them (segctl_agent.identity)."""


class Claims:
    """Which workload of a policy a process belongs to. `before` is the policy that it would replace: a workload that
    both declare alike has what hosts told of it, but for what a workload that is new goes before it with."""

    def __init__(self, policy: Policy, before: Policy | None = None) -> None:
        self._declared = policy.workloads
        self._identifier = Identifier(policy, ())
        self._known: dict[tuple[str, str, str], str] = {}
        self._before = None if before is None else Claims(before)
        old = policy.workloads if before is None else before.workloads
        self._changed = {w.name: w for w in policy.workloads.values() if not _alike(w, old.get(w.name))}
        first = min((_order(w)[0] for w in self._changed.values()), default=len(_KINDS))
        kept = [w for w in policy.workloads.values() if w.name not in self._changed]
        self.settled = frozenset(w.name for w in kept if _order(w) < (first, True))
        """Those that lose no process that was told as theirs."""

    @property
    def empty(self) -> bool:
        """No policy declares a workload."""
        return not self._declared and (self._before is None or self._before.empty)

    def was(self, tags: str, workload: str, process: str) -> str:
        """The workload by the policy before."""
        return (self._before or self).of(tags, workload, process)

    def of(self, tags: str, workload: str, process: str) -> str:
        """The workload of today; the one that was told where the policy still gives it the process, or none has it."""
        if not process or not self._declared or workload in self.settled:
            return workload
        key = (tags, workload, process)
        if key not in self._known:
            self._known[key] = self._look(*key)
        return self._known[key]

    def _look(self, tags: str, workload: str, process: str) -> str:
        held, told = parse_tags(tags), self._declared.get(workload)
        found = self._identifier.claimant(held, process)
        if told is None or not held.includes(told.on):
            return found.name if found else workload
        if found is not None and found.process != LOGINS and _order(found) < _order(told):
            return found.name
        if workload in self._changed and _never_has(told, process):
            return found.name if found else HOST_WORKLOAD
        return workload


def _alike(workload: Workload, other: Workload | None) -> bool:
    return other is not None and (workload.process, workload.on) == (other.process, other.on)


def _order(workload: Workload) -> tuple[int, bool, int, str]:
    """Of those that match one process, the first has it."""
    kind, pattern = workload.process.kind, workload.process.pattern
    of_slice = kind is ProcessKind.UNIT and pattern.endswith(SLICE)
    return _KINDS.index(SLICE if of_slice else kind), is_glob(pattern), -len(pattern), workload.name


def _never_has(workload: Workload, process: str) -> bool:
    """By its pattern; False where the identity of a process does not say it."""
    kind, _, name = process.partition(":")
    pattern = workload.process.pattern
    comparable = {ProcessKind.UNIT: UNIT, ProcessKind.CONTAINER: CONTAINER}.get(workload.process.kind) == kind
    if not comparable or "*" in name or pattern.endswith((SLICE, ".socket")):
        return False
    return not fnmatchcase(name, pattern)


@dataclass(frozen=True, slots=True)
class Claimed:
    """The number of the workload that has each today. `names` are of numbers that no row has: they are negative.
    `before` has the workload by the policy before, where that is another one."""

    into: Mapping[Unclaimed, int]
    names: Mapping[int, str]
    before: Mapping[int, str] = field(default_factory=dict)


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
    if claims is None or claims.empty:
        return NOTHING
    settled = [number for name in sorted(claims.settled) if (number := texts.find(name)) is not None]
    into: dict[Unclaimed, int] = {}
    new: dict[tuple[str, str], int] = {}
    for tags, workload, process in work.rows(_unsettled(since_us, until_us, settled)):
        end = (tags_of.get(tags) or "", texts.text(workload), texts.text(process))
        name, was = claims.of(*end), claims.was(*end)
        if (name, was) != (end[1], end[1]):
            number = texts.find(name) if name == was else None
            into[tags, workload, process] = new.setdefault((name, was), -1 - len(new)) if number is None else number
    before = {number: was for (name, was), number in new.items() if name != was}
    return Claimed(into, {number: name for (name, _), number in new.items()}, before)


def _unsettled(since_us: int, until_us: int, settled: Sequence[int]) -> Select[tuple[int, int, int]]:
    seen = (within(since_us, until_us), r.process != NONE, r.workload.not_in(settled))
    return select(r.tags, r.workload, r.process).where(*seen).distinct()
