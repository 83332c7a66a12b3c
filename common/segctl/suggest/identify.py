"""Which program an observed end is: a declared workload, or a process that a workload could be declared for."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from fnmatch import fnmatchcase
from itertools import combinations

from segctl.model.policy import HOST_WORKLOAD, Policy, PortRange, Process, ProcessKind, Tags, Workload
from segctl.model.processes import CONTAINER, EXECUTABLE, UNIT, USER
from segctl.policy.checks.globs import is_glob
from segctl.policy.syntax.grammar import read_process
from segctl.suggest.observed import Observation, ObservedEnd

LOGINS = Process(ProcessKind.UNIT, "user.slice")
"""Everybody who is logged in (systemd.special(7))."""
SEVERAL = 2
"""From so many on, units that differ in a tag's value alone are taken to be one kind, where they use one service."""
SHORTEST = 3
"""Letters that a glob must have beside its star: `*.service` says nothing."""


_KINDS = {
    UNIT: ProcessKind.UNIT,
    EXECUTABLE: ProcessKind.EXECUTABLE,
    CONTAINER: ProcessKind.CONTAINER,
    USER: ProcessKind.USER,
}
_INSTANCE = re.compile(r"@.*(?=\.[a-z]+$)")


class Kind(IntEnum):
    WORKLOAD = 0
    PROCESS = 1
    HOST = 2
    """A process that nobody could tell."""
    OUTSIDE = 3


@dataclass(frozen=True, slots=True, order=True)
class Who:
    """A program, wherever it runs. `name` is the declared workload's, or the process as text."""

    kind: Kind
    name: str = ""
    process: Process | None = None


ANY_PROCESS = Who(Kind.HOST, HOST_WORKLOAD)
OUTSIDE = Who(Kind.OUTSIDE)


class Identifier:
    """Learns from all ends first, so that units which differ only in a tag's value become one glob; then `who` tells of
    each."""

    def __init__(self, policy: Policy, observations: Iterable[Observation]) -> None:
        self._known: dict[ObservedEnd, Who | str] = {}
        self._units: dict[tuple[Tags, str], dict[str, tuple[str, ...]]] = {}
        self._declared: dict[ProcessKind, list[Workload]] = defaultdict(list)
        for workload in policy.workloads.values():
            self._declared[workload.process.kind].append(workload)
        self._patterns: dict[tuple[str, str], list[Workload]] = {}
        self._policy = policy
        values: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        uses: dict[tuple[str, bool, PortRange], set[tuple[str, ...]]] = defaultdict(set)
        for one in observations:
            for end, far in ((one.source, False), (one.destination, True)):
                for glob, found in self._templates(end).items():
                    values[glob].add(found)
                    uses[glob, far, one.service].add(found)
        alike = dict.fromkeys(values, 0)
        for (glob, _, _), users in uses.items():
            alike[glob] = max(alike[glob], len(users))
        self._globs = {glob: n for glob, n in alike.items() if n >= SEVERAL and 2 * n >= len(values[glob])}

    def who(self, end: ObservedEnd) -> Who | str:
        """The program, or in words why no workload can name it."""
        if end not in self._known:
            self._known[end] = self._look(end)
        return self._known[end]

    def _templates(self, end: ObservedEnd) -> dict[str, tuple[str, ...]]:
        if end.tags is None or not end.process:
            return {}
        key = (end.tags, end.process)
        if key not in self._units:
            self._units[key] = _templates(end)
        return self._units[key]

    def _look(self, end: ObservedEnd) -> Who | str:
        if end.tags is None:
            return OUTSIDE
        if end.workload in self._policy.workloads:
            return Who(Kind.WORKLOAD, end.workload)
        if not end.process:
            return ANY_PROCESS
        process = self._process(end)
        if not isinstance(process, Process):
            return process
        declared = self.claimant(end.tags, end.process)
        return Who(Kind.WORKLOAD, declared.name) if declared else Who(Kind.PROCESS, str(process), process)

    def _process(self, end: ObservedEnd) -> Process | str:
        kind, _, name = end.process.partition(":")
        if kind == EXECUTABLE:
            return LOGINS
        if kind != UNIT:
            return _literal(ProcessKind.CONTAINER if kind == CONTAINER else ProcessKind.USER, name)
        literal = _literal(ProcessKind.UNIT, name)
        globs = [glob for glob in self._templates(end) if glob in self._globs]
        if globs and isinstance(literal, Process):
            return Process(ProcessKind.UNIT, min(globs, key=lambda g: (-self._globs[g], g.count("*"), g)))
        return literal

    def claimant(self, tags: Tags, process: str) -> Workload | None:
        """The declared workload that has the process now: it may be younger than the flow. What runs in a login is told
        by its executable, and is whose the logins are."""
        kind, _, name = process.partition(":")
        own = self._best(kind, name, tags)
        return self._best(UNIT, LOGINS.pattern, tags) if own is None and kind == EXECUTABLE else own

    def _best(self, kind: str, name: str, tags: Tags) -> Workload | None:
        return next((w for w in self._matching(kind, name) if tags.includes(w.on)), None)

    def _matching(self, kind: str, name: str) -> list[Workload]:
        """Who would have the process on any host, the first of them before the others."""
        key = (kind, name)
        if key not in self._patterns:
            declared = self._declared.get(_KINDS[kind], ())
            found = [w for w in declared if w.process.pattern == name or fnmatchcase(name, w.process.pattern)]
            found.sort(key=lambda w: (is_glob(w.process.pattern), -len(w.process.pattern), w.name))
            self._patterns[key] = found
        return self._patterns[key]


def _literal(kind: ProcessKind, word: str) -> Process | str:
    """A host says it, and an operator pastes what is made of it: nothing that the policy cannot say. The star that
    stands for an instance of a unit is no glob of theirs but ours (segctl.model.processes)."""
    if kind is ProcessKind.UNIT:
        word = _INSTANCE.sub("@*", word)
    process = read_process(kind, word)
    if isinstance(process, Process) and not set(word.replace("@*.", "@.")) & set("*?[]"):
        return process
    return f"{kind.value} {word[:60]!r} is no name that a policy can use"


def _templates(end: ObservedEnd) -> dict[str, tuple[str, ...]]:
    """By glob the values that it leaves open: the unit with the value of one tag of its host, or of two, as a star."""
    kind, _, unit = end.process.partition(":")
    stem, dot, suffix = unit.rpartition(".")
    if end.tags is None or kind != UNIT or not dot or "@" in stem:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    values = sorted({value for _, value in end.tags.pairs if _starred(stem, value) != stem})
    for chosen in (*combinations(values, 1), *combinations(values, 2)):
        glob = stem
        for value in chosen:
            glob = _starred(glob, value)
        if len(re.sub(r"[^A-Za-z0-9]", "", glob)) >= SHORTEST:
            found[f"{glob}{dot}{suffix}"] = chosen
    return found


def _starred(text: str, value: str) -> str:
    return re.sub(rf"(?<![A-Za-z0-9]){re.escape(value)}(?![A-Za-z0-9])", "*", text, count=1)
