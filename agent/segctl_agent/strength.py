"""How each workload of this host is told from the others, and what that is worth. Pure.

race-free: a process belongs to its workload from its first packet on, however early that is.
closed-until-known: while anything on the host enforces, the first packets of a new cgroup are dropped until the agent
has mapped it, about a millisecond; TCP repeats its SYN after a second.
best-effort: there are processes, or directions, for which the kernel cannot tell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import HOST_WORKLOAD, Process, ProcessKind
from segctl.model.units import SLICE, names_for_socket, prepared_slice, slices_of, unit_of

from segctl_agent.byuser import owner_key
from segctl_agent.facts.values import ContainerFact
from segctl_agent.identity import Identity, Inner

Identified = Literal["slice", "unit", "cgroup", "user", "group", "container", "executable", "rest"]
Strength = Literal["race-free", "closed-until-known", "best-effort"]
_LISTED = 3


@dataclass(frozen=True, slots=True)
class WorkloadFact:
    """One workload as this host sees it; `why` is a sentence for people."""

    name: str
    identified: Identified
    strength: Strength
    why: str


@dataclass(frozen=True, slots=True)
class _Seen:
    """Of one workload: the paths of its units, those slices all of whose content is its own, and its containers."""

    units: frozenset[str] = frozenset()
    slices: frozenset[str] = frozenset()
    containers: tuple[ContainerFact, ...] = ()


def describe_identity(
    policy: HostPolicy,
    users: Mapping[str, int],
    cgroups: Mapping[str, int],
    identity: Identity | None = None,
    containers: tuple[ContainerFact, ...] = (),
) -> tuple[WorkloadFact, ...]:
    """The workloads, sorted by name. `users`, `cgroups` and `containers` as in HostFacts; `identity` is that of the
    policy, where the caller has one that remembers places."""
    divided = any(w.process is not None and w.process.kind is ProcessKind.EXECUTABLE for w in policy.workloads)
    known = identity or Identity(policy, users, containers)
    seen = _look(known, cgroups, executables=divided)
    for container in containers:
        name = known.place(container.cgroup).workload
        before = seen.get(name, _Seen())
        seen[name] = replace(before, containers=(*before.containers, container))
    facts = (_describe(w, policy, users, seen.get(w.name, _Seen())) for w in policy.workloads)
    found = tuple(sorted(facts, key=lambda f: f.name))
    return tuple(map(_divided, found)) if divided else found


def _look(identity: Identity, cgroups: Mapping[str, int], *, executables: bool) -> dict[str, _Seen]:
    """Without executables only leaves count; with them nothing is a leaf for another reason than its depth."""
    units: dict[str, set[str]] = defaultdict(set)
    slices: dict[str, set[str]] = defaultdict(set)
    for path in cgroups:
        place = identity.place(path)
        if place.workload == HOST_WORKLOAD or (isinstance(place, Inner) and not executables):
            continue
        if unit_of(path) is not None:
            units[place.workload].add(path)
        elif path.endswith(SLICE):
            slices[place.workload].add(path.rpartition("/")[2])
    return {name: _Seen(frozenset(units[name]), frozenset(slices[name])) for name in {*units, *slices}}


def _describe(workload: LocalWorkload, policy: HostPolicy, users: Mapping[str, int], seen: _Seen) -> WorkloadFact:
    name, process = workload.name, workload.process
    if process is None:
        return _rest(name, policy)
    match process.kind:
        case ProcessKind.UNIT if process.pattern.endswith(SLICE):
            return _by_slice(name, process, seen)
        case ProcessKind.UNIT:
            return _by_unit(name, process, seen)
        case ProcessKind.CGROUP:
            return _by_cgroup(name, process)
        case ProcessKind.USER | ProcessKind.GROUP:
            return _by_owner(name, process, users)
        case ProcessKind.EXECUTABLE:
            return _by_executable(name, process)
        case ProcessKind.CONTAINER:
            return _by_container(name, process, seen)


def _rest(name: str, policy: HostPolicy) -> WorkloadFact:
    if len(policy.workloads) == 1:
        return WorkloadFact(name, "rest", "race-free", "everything on this host: nothing is named, so nothing is asked")
    why = "what no workload names; the first packets of a new unit are dropped until it is known not to be named"
    return WorkloadFact(name, "rest", "closed-until-known", why)


def _by_slice(name: str, process: Process, seen: _Seen) -> WorkloadFact:
    if process.pattern in seen.slices:
        return WorkloadFact(
            name, "slice", "race-free", f"{process.pattern} is there and keeps its id: all in it belong"
        )
    why = (
        f"no {process.pattern} that is its alone is there yet: `systemctl start` it ahead, else the first unit in it "
        "makes it"
    )
    return WorkloadFact(name, "slice", "closed-until-known", why)


def _by_unit(name: str, process: Process, seen: _Seen) -> WorkloadFact:
    own = prepared_slice(name)
    inside = {path for path in seen.units if own in slices_of(path.split("/"))}
    strangers = [unit for unit in _units(inside) if not _names(process, unit)]
    outside = _units(seen.units - inside)
    if strangers:
        why = f"{own} also holds {_few(strangers)}, which {process.pattern} does not name: prepare this host again"
        return WorkloadFact(name, "slice", "best-effort", why)
    if own not in seen.slices:
        why = "each start is a new cgroup, closed until it is known; `segctl host prepare` gives it one that stays"
        return WorkloadFact(name, "unit", "closed-until-known", why)
    if outside:
        why = f"{_few(outside)} still runs outside of {own}: restart it"
        return WorkloadFact(name, "unit", "closed-until-known", why)
    return WorkloadFact(name, "slice", "race-free", f"its units run in {own}, which keeps its id when they start again")


def _units(paths: Iterable[str]) -> list[str]:
    return sorted({unit for path in paths if (unit := unit_of(path)) is not None})


def _by_cgroup(name: str, process: Process) -> WorkloadFact:
    last = process.pattern.rpartition("/")[2]
    if last.endswith(SLICE) and not set(last) & set("*?["):
        return WorkloadFact(name, "cgroup", "race-free", "a slice keeps its id while it is there: all in it belong")
    why = "a cgroup that is made anew has a new id: its first packets are dropped until it is known"
    return WorkloadFact(name, "cgroup", "closed-until-known", why)


def _by_owner(name: str, process: Process, users: Mapping[str, int]) -> WorkloadFact:
    by_group = process.kind is ProcessKind.GROUP
    identified: Identified = "group" if by_group else "user"
    if owner_key(process) not in users:
        why = f"this host knows no {identified} {process.pattern}: no process belongs to it"
        return WorkloadFact(name, identified, "best-effort", why)
    if by_group:
        why = (
            "outgoing by the group of the socket's maker; the kernel does not tell a listener's: incoming is the host's"
        )
        return WorkloadFact(name, identified, "best-effort", why)
    why = (
        "outgoing by the owner of the socket; incoming only to listeners in the user's own slice, others are the host's"
    )
    return WorkloadFact(name, identified, "closed-until-known", why)


def _by_container(name: str, process: Process, seen: _Seen) -> WorkloadFact:
    apart = sorted(c.name for c in seen.containers if c.network)
    if apart:
        why = (
            f"{_few(apart)}: by address where this host forwards; a neighbour on the bridge with CAP_NET_RAW can "
            "borrow it, and neighbours meet unseen without net.bridge.bridge-nf-call-iptables=1"
        )
        return WorkloadFact(name, "container", "best-effort", why)
    running = sorted(c.name for c in seen.containers)
    there = f"{_few(running)}: by cgroup" if running else f"no container {process.pattern} runs"
    why = f"{there}; each start is closed until its name is known, about 10 ms"
    return WorkloadFact(name, "container", "closed-until-known", why)


def _by_executable(name: str, process: Process) -> WorkloadFact:
    why = (
        f"by the exec gate, from its first packet on; whoever may execute {process.pattern} has its permissions, and "
        "what it starts has them for up to a second"
    )
    return WorkloadFact(name, "executable", "best-effort", why)


def _divided(fact: WorkloadFact) -> WorkloadFact:
    """Where executables are named, each new cgroup may be one's: no cgroup vouches for what is below it."""
    if fact.strength != "race-free" or fact.identified == "rest":
        return fact
    why = "the policy names executables here: each new cgroup in it is closed until it is known not to be one's"
    return replace(fact, strength="closed-until-known", why=why)


def _names(process: Process, unit: str) -> bool:
    return any(fnmatchcase(name, process.pattern) for name in names_for_socket(unit))


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
