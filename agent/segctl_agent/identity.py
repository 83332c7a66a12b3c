"""Which workload a cgroup belongs to: pure, from the path and the host's workloads.

Where several match, executable goes before cgroup, cgroup before slice, slice before container, container before unit,
unit before user, user before group, a literal before a glob, a longer pattern before a shorter one, then the name
decides. What nothing names belongs to the workload `host`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from functools import cache, lru_cache
from typing import Literal

from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import HOST_WORKLOAD, Process, ProcessKind
from segctl.model.units import SLICE, names_for_socket, prepared_slice, slices_of, unit_of

from segctl_agent.byuser import owner_key
from segctl_agent.execgate.names import gated, may_hold
from segctl_agent.facts.containers import container_of, may_hold_containers
from segctl_agent.facts.values import ContainerFact
from segctl_agent.nft.ruleset import Verdict, goto

Direction = Literal["in", "out"]
DIRECTIONS: tuple[Direction, ...] = ("in", "out")

DEPTH = 8
"""The deepest cgroup level that the kernel is asked about: what lies deeper belongs to its ancestor at this level."""
_KEY = struct.Struct("=Q")
_REMEMBERED = 8192
_KINDS = (
    ProcessKind.EXECUTABLE,
    ProcessKind.CGROUP,
    ProcessKind.CONTAINER,
    ProcessKind.UNIT,
    ProcessKind.USER,
    ProcessKind.GROUP,
)


@dataclass(frozen=True, slots=True)
class Leaf:
    """Nothing below this cgroup can belong to another workload. `by_user`: by the owner of its user slice."""

    workload: str
    by_user: bool = False


@dataclass(frozen=True, slots=True)
class Inner:
    """A workload below may differ; `workload` is that of sockets which sit directly in this cgroup."""

    workload: str
    by_user: bool = False


@dataclass(frozen=True, slots=True)
class CgroupElement:
    """One element of a cgroup map: what `render` writes for a cgroup, and what a new cgroup adds."""

    map: str
    key: bytes
    verdict: Verdict


def is_glob(pattern: str) -> bool:
    return any(c in pattern for c in "*?[")


def _rank(workload: LocalWorkload) -> tuple[int, bool, int, str]:
    process = workload.process
    if process is None:
        return (len(_KINDS), True, 0, workload.name)
    return (_KINDS.index(process.kind), is_glob(process.pattern), -len(process.pattern), workload.name)


def _prefix_matches(pattern: list[str], path: list[str]) -> bool:
    return all(fnmatchcase(segment, part) for part, segment in zip(pattern, path, strict=False))


@lru_cache(maxsize=_REMEMBERED)
def _matcher(glob: str) -> Callable[[str], object]:
    return re.compile(translate(glob)).match


class _Names:
    """Patterns for one kind of name, best first: a literal is one lookup, however many there are."""

    def __init__(self, ranked: Iterable[tuple[str, str]]) -> None:
        self.literal: dict[str, str] = {}
        self.globs: list[tuple[str, str]] = []
        for workload, pattern in ranked:
            if is_glob(pattern):
                self.globs.append((pattern, workload))
            else:
                self.literal.setdefault(pattern, workload)
        self._matchers = [(_matcher(pattern), workload) for pattern, workload in self.globs]

    def __bool__(self) -> bool:
        return bool(self.literal or self.globs)

    def find(self, name: str) -> str | None:
        found = self.literal.get(name)
        if found is not None or not self.globs:
            return found
        return next((workload for matches, workload in self._matchers if matches(name)), None)


class Identity:
    """The workloads of one host policy, ready to place cgroups. `users` and `containers` are those of HostFacts."""

    def __init__(self, policy: HostPolicy, users: Mapping[str, int], containers: Iterable[ContainerFact] = ()) -> None:
        ranked = [(w.name, w.process) for w in sorted(policy.workloads, key=_rank) if w.process is not None]
        self._cgroups = [(n, p.pattern.strip("/").split("/")) for n, p in ranked if p.kind is ProcessKind.CGROUP]
        units = [(n, p.pattern) for n, p in ranked if p.kind is ProcessKind.UNIT]
        prepared = [(n, prepared_slice(n)) for n, pattern in units if not pattern.endswith(SLICE)]
        self._slices = _Names([*((n, p) for n, p in units if p.endswith(SLICE)), *prepared])
        self._units = _Names((n, p) for n, p in units if not p.endswith(SLICE))
        self._executables = frozenset(n for n, p in ranked if p.kind is ProcessKind.EXECUTABLE)
        self._containers = _Names((n, p.pattern) for n, p in ranked if p.kind is ProcessKind.CONTAINER)
        self._names = {c.cgroup: c.name for c in containers}
        self.users = _owners(ranked, ProcessKind.USER, users)
        """uid -> workload, for the workloads by user whose user this host knows."""
        self.groups = _owners(ranked, ProcessKind.GROUP, users)
        """gid -> workload, likewise."""
        self._opened: dict[str, bool] = {}
        self._places: dict[str, Leaf | Inner] = {}

    def place(self, path: str) -> Leaf | Inner:
        """Where a cgroup (path below the root, without a leading slash) belongs. Remembered: the same ones are
        asked for again and again."""
        known = self._places.get(path)
        if known is None:
            if len(self._places) >= _REMEMBERED:
                self._places.clear()
            known = self._places[path] = self._place(path)
        return known

    def _place(self, path: str) -> Leaf | Inner:
        parts = path.strip("/").split("/")
        executable = gated(parts)
        if executable in self._executables:
            return Leaf(executable)
        if executable is not None:  # left from a policy before: it is its unit's
            above = self.place("/".join(parts[:-1]))
            return Leaf(above.workload, above.by_user)
        slices = slices_of(parts)
        workload, by_user, slice_named, by_cgroup = self._workload(parts, slices)
        if len(parts) < DEPTH and self._executables and may_hold(parts):
            return Inner(workload, by_user)
        named = by_cgroup or slice_named is not None
        containers_below = self.names_containers and not named and may_hold_containers(path)
        if not (self._cgroups or containers_below or parts[-1].endswith(SLICE)):
            return Leaf(workload, by_user)
        only_slices = all(p.endswith(SLICE) for p in parts)
        # Below a cgroup pattern or a named slice a unit would not count.
        units_below = bool(self._units) and only_slices and slice_named is None and not by_cgroup
        slices_below = not by_cgroup and 0 < len(slices) == len(parts) and self._slice_below(slices[-1], slice_named)
        users_below = bool(self.users) and not by_cgroup and slice_named is None and parts == ["user.slice"]
        cgroups_below = any(len(p) > len(parts) and _prefix_matches(p, parts) for _, p in self._cgroups)
        below = units_below or slices_below or users_below or containers_below or cgroups_below
        if len(parts) < DEPTH and below:
            return Inner(workload, by_user)
        return Leaf(workload, by_user)

    def _workload(self, parts: list[str], slices: list[str]) -> tuple[str, bool, str | None, bool]:
        """(workload, by user, the pattern of the slice that names it, by cgroup pattern)."""
        for name, pattern in self._cgroups:
            if len(pattern) <= len(parts) and _prefix_matches(pattern, parts):
                return name, False, None, True
        # The longest literal is the innermost: a slice bears the name of the one it lies in.
        for component in reversed(slices):
            if component in self._slices.literal:
                return self._slices.literal[component], False, component, False
        for glob, name in self._slices.globs:
            if any(fnmatchcase(component, glob) for component in slices):
                return name, False, glob, False
        contained = self._contained("/".join(parts))
        if contained is not None:
            return contained, False, None, False
        unit = unit_of("/".join(parts))
        for candidate in names_for_socket(unit) if unit is not None else ():
            found = self._units.find(candidate)
            if found is not None:
                return found, False, None, False
        if parts[0] == "user.slice" and len(parts) > 1:
            uid = parts[1].removeprefix("user-").removesuffix(".slice")
            if uid.isdecimal() and int(uid) in self.users:
                return self.users[int(uid)], True, None, False
        return HOST_WORKLOAD, False, None, False

    def _contained(self, path: str) -> str | None:
        """The workload of the container that a cgroup is or lies in, by the container's name."""
        container = container_of(path) if self._containers else None
        name = self._names.get(container.cgroup) if container is not None else None
        return self._containers.find(name) if name is not None else None

    @property
    def names_containers(self) -> bool:
        """Whether a workload of this host is told by its container."""
        return bool(self._containers)

    def _is_nameless(self, path: str) -> bool:
        """A container of which the policy may speak, when its name is not known yet: nothing may be said of it."""
        container = container_of(path) if self._containers else None
        if container is None or container.cgroup in self._names:
            return False
        parts = path.split("/")
        _, _, slice_named, by_cgroup = self._workload(parts, slices_of(parts))
        return slice_named is None and not by_cgroup

    def _slice_below(self, component: str, named_by: str | None) -> bool:
        """Whether a slice within this one may belong to a workload that goes before the one whose pattern names it."""
        stem = component.removesuffix(SLICE) + "-"
        if any(name.startswith(stem) for name in self._slices.literal):
            return True
        if named_by is None:
            return bool(self._slices.globs)
        if named_by in self._slices.literal:
            return False
        return self._slices.globs[0][0] != named_by

    def elements(self, path: str, cgroup: int) -> tuple[CgroupElement, ...]:
        """The elements that this cgroup needs, in both directions. None below a leaf: the leaf's covers it."""
        path = path.strip("/")
        above, _, _ = path.rpartition("/")
        level = path.count("/") + 1
        if level > DEPTH or (above and not self._open(above)):
            return ()
        if self._is_nameless(path):
            return ()
        place = self.place(path)
        key = _KEY.pack(cgroup)
        if isinstance(place, Leaf):
            return tuple(CgroupElement(leaf_map(level, d), key, _goto(self.chain(place, d))) for d in DIRECTIONS)
        out: list[CgroupElement] = []
        for direction in DIRECTIONS:
            out.append(CgroupElement(own_map(level, direction), key, _goto(self.chain(place, direction))))
            if level > 1:
                deeper = _goto(level_chain(level + 1, direction))
                out.append(CgroupElement(leaf_map(level, direction), key, deeper))
        return tuple(out)

    def _open(self, path: str) -> bool:
        """Whether this cgroup and all above it are inner ones. Remembered: a cgroup that appears waits for it."""
        known = self._opened.get(path)
        if known is None:
            above, _, _ = path.rpartition("/")
            known = isinstance(self.place(path), Inner) and (not above or self._open(above))
            if len(self._opened) >= _REMEMBERED:
                self._opened.clear()
            self._opened[path] = known
        return known

    def chain(self, place: Leaf | Inner, direction: Direction) -> str:
        """The workload chain of a place. Outgoing, the owner of the socket decides about a user's workload, not the
        slice, but for replies of what listens in the slice."""
        if place.by_user and direction == "out":
            return owner_chain(place.workload)
        return workload_chain(place.workload, direction)


def _owners(ranked: Iterable[tuple[str, Process]], kind: ProcessKind, users: Mapping[str, int]) -> dict[int, str]:
    found: dict[int, str] = {}
    for name, process in ranked:
        if process.kind is kind:
            number = int(process.pattern) if process.pattern.isdecimal() else users.get(owner_key(process))
            if number is not None:
                found.setdefault(number, name)
    return found


@lru_cache(maxsize=_REMEMBERED)
def _goto(chain: str) -> Verdict:
    return goto(chain)


def workload_chain(workload: str, direction: Direction) -> str:
    """The chain of a workload. It bears the name and no number: a packet that the kernel is judging while a transaction
    commits may find the new element in a map and still go through the old rules of the chain it names."""
    return f"w_{workload}_{direction}"


def owner_chain(workload: str) -> str:
    """Outgoing packets from the slice of a workload's user."""
    return f"owner_{workload}_out"


def rest_chain(direction: Direction) -> str:
    """The workload `host`, once it was asked who made the socket."""
    return f"rest_{HOST_WORKLOAD}_{direction}"


@cache
def leaf_map(level: int, direction: Direction) -> str:
    return f"cg{level}_{direction}"


@cache
def own_map(level: int, direction: Direction) -> str:
    return f"own{level}_{direction}"


@cache
def level_chain(level: int, direction: Direction) -> str:
    return f"lvl{level}_{direction}"


def cgroup_elements(policy: HostPolicy, users: Mapping[str, int], path: str, cgroup: int) -> tuple[CgroupElement, ...]:
    """What one cgroup adds to the kernel's maps. For many, make one Identity and ask that."""
    return Identity(policy, users).elements(path, cgroup)
