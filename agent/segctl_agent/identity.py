"""Which workload a cgroup belongs to: pure, from the path and the host's workloads.

Where several match, executable goes before cgroup, cgroup before unit, unit before user, a literal before a glob, a
longer pattern before a shorter one, then the name decides. What nothing names belongs to the workload `host`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import HOST_WORKLOAD, Process, ProcessKind

from segctl_agent.execgate.names import gated, may_hold
from segctl_agent.nft.ruleset import Verdict, goto

Direction = Literal["in", "out"]
DIRECTIONS: tuple[Direction, ...] = ("in", "out")

DEPTH = 8
"""The deepest cgroup level that the kernel is asked about: what lies deeper belongs to its ancestor at this level."""
_UNIT_SUFFIXES = (".service", ".scope", ".socket", ".mount", ".swap")
_KINDS = (ProcessKind.EXECUTABLE, ProcessKind.CGROUP, ProcessKind.UNIT, ProcessKind.USER)


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


def unit_of(path: str) -> str | None:
    """The unit of the system manager that a cgroup path lies in: the first component that is not a slice."""
    for component in path.split("/"):
        if not component.endswith(".slice"):
            # systemd escapes a unit name that could be taken for a cgroup file with one underscore.
            name = component[1:] if component.startswith("_") else component
            return name if name.endswith(_UNIT_SUFFIXES) else None
    return None


def is_glob(pattern: str) -> bool:
    return any(c in pattern for c in "*?[")


def _rank(workload: LocalWorkload) -> tuple[int, bool, int, str]:
    process = workload.process
    if process is None:
        return (len(_KINDS), True, 0, workload.name)
    return (_KINDS.index(process.kind), is_glob(process.pattern), -len(process.pattern), workload.name)


def _prefix_matches(pattern: list[str], path: list[str]) -> bool:
    return all(fnmatchcase(segment, part) for part, segment in zip(pattern, path, strict=False))


class Identity:
    """The workloads of one host policy, ready to place cgroups. `users` are HostFacts.users."""

    def __init__(self, policy: HostPolicy, users: Mapping[str, int]) -> None:
        ranked = [(w.name, w.process) for w in sorted(policy.workloads, key=_rank) if w.process is not None]
        self._cgroups = [(n, p.pattern.strip("/").split("/")) for n, p in ranked if p.kind is ProcessKind.CGROUP]
        self._units = [(n, p.pattern) for n, p in ranked if p.kind is ProcessKind.UNIT]
        self._executables = frozenset(n for n, p in ranked if p.kind is ProcessKind.EXECUTABLE)
        self.users: dict[int, str] = {}
        """uid -> workload, for the workloads by user whose user this host knows."""
        for name, process in ranked:
            uid = _uid(process, users) if process.kind is ProcessKind.USER else None
            if uid is not None:
                self.users.setdefault(uid, name)

    def place(self, path: str) -> Leaf | Inner:
        """Where a cgroup (path below the root, without a leading slash) belongs."""
        parts = path.strip("/").split("/")
        executable = gated(parts)
        if executable in self._executables:
            return Leaf(executable)
        if executable is not None:  # left from a policy before: it is its unit's
            above = self.place("/".join(parts[:-1]))
            return Leaf(above.workload, above.by_user)
        workload, by_user, by_cgroup = self._workload(parts)
        # A unit can appear below slices only, and below a cgroup pattern it would not count.
        units_below = bool(self._units) and not by_cgroup and all(p.endswith(".slice") for p in parts)
        users_below = bool(self.users) and not by_cgroup and parts == ["user.slice"]
        cgroups_below = any(len(p) > len(parts) and _prefix_matches(p, parts) for _, p in self._cgroups)
        executables_below = bool(self._executables) and may_hold(parts)
        if len(parts) < DEPTH and (units_below or users_below or cgroups_below or executables_below):
            return Inner(workload, by_user)
        return Leaf(workload, by_user)

    def _workload(self, parts: list[str]) -> tuple[str, bool, bool]:
        """(workload, by user, by cgroup pattern)."""
        for name, pattern in self._cgroups:
            if len(pattern) <= len(parts) and _prefix_matches(pattern, parts):
                return name, False, True
        unit = unit_of("/".join(parts))
        if unit is not None:
            for name, glob in self._units:
                if fnmatchcase(unit, glob):
                    return name, False, False
        if parts[0] == "user.slice" and len(parts) > 1:
            uid = parts[1].removeprefix("user-").removesuffix(".slice")
            if uid.isdecimal() and int(uid) in self.users:
                return self.users[int(uid)], True, False
        return HOST_WORKLOAD, False, False

    def elements(self, path: str, cgroup: int) -> tuple[CgroupElement, ...]:
        """The elements that this cgroup needs, in both directions. None below a leaf: the leaf's covers it."""
        parts = path.strip("/").split("/")
        level = len(parts)
        if level > DEPTH or any(isinstance(self.place("/".join(parts[:i])), Leaf) for i in range(1, level)):
            return ()
        place = self.place(path)
        key = struct.pack("=Q", cgroup)
        out: list[CgroupElement] = []
        for direction in DIRECTIONS:
            workload = goto(self.chain(place, direction))
            if isinstance(place, Leaf):
                out.append(CgroupElement(leaf_map(level, direction), key, workload))
                continue
            out.append(CgroupElement(own_map(level, direction), key, workload))
            if level > 1:
                deeper = goto(level_chain(level + 1, direction))
                out.append(CgroupElement(leaf_map(level, direction), key, deeper))
        return tuple(out)

    def chain(self, place: Leaf | Inner, direction: Direction) -> str:
        """The workload chain of a place. Outgoing, the owner of the socket decides about a user's workload, not the
        slice: the chain of `host` asks for it first."""
        name = HOST_WORKLOAD if place.by_user and direction == "out" else place.workload
        return workload_chain(name, direction)


def _uid(process: Process, users: Mapping[str, int]) -> int | None:
    return int(process.pattern) if process.pattern.isdecimal() else users.get(process.pattern)


def workload_chain(workload: str, direction: Direction) -> str:
    """The chain of a workload. It bears the name and no number: a packet that the kernel is judging while a transaction
    commits may find the new element in a map and still go through the old rules of the chain it names."""
    return f"w_{workload}_{direction}"


def leaf_map(level: int, direction: Direction) -> str:
    return f"cg{level}_{direction}"


def own_map(level: int, direction: Direction) -> str:
    return f"own{level}_{direction}"


def level_chain(level: int, direction: Direction) -> str:
    return f"lvl{level}_{direction}"


def cgroup_elements(policy: HostPolicy, users: Mapping[str, int], path: str, cgroup: int) -> tuple[CgroupElement, ...]:
    """What one cgroup adds to the kernel's maps. For many, make one Identity and ask that."""
    return Identity(policy, users).elements(path, cgroup)
