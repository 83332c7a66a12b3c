"""Processes that were put into the cgroup of another workload: pure, from two looks at who is where.

A socket keeps the cgroup it was made in, so a move changes no session; what the process opens afterwards is judged as
the other workload's. Only root moves processes between units, and much of that is right: the system manager and
container runtimes move a process that they have just made, logind and `systemd-run --scope` move older ones into a
scope made for them. What is left is a process that ran elsewhere for some time and then is in another unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from segctl_agent.execgate.names import started_in

SETTLED_SECONDS = 2.0
"""A process of this age has been where it is for longer than any start takes."""
MOST = 20
"""Moves that are told of one look."""


@dataclass(frozen=True, slots=True)
class Process:
    """`started` in seconds since boot: with the pid it names a process for good. `path` is its cgroup's."""

    pid: int
    started: float
    path: str


@dataclass(frozen=True, slots=True)
class Look:
    """Who was in the cgroups of named workloads, and where those went who were before. `at` in seconds since boot, when
    it began; `paths` are all cgroups there were, `listed` those whose processes are all among these."""

    at: float
    processes: Mapping[int, Process]
    paths: frozenset[str]
    listed: frozenset[str]


@dataclass(frozen=True, slots=True)
class Move:
    """Process `pid` went from workload `source` to `target`, and is in the cgroup `path` now."""

    pid: int
    source: str
    target: str
    path: str


def find_moves(before: Look, now: Look, workload_of: Callable[[str], str], rest: str) -> tuple[Move, ...]:
    """The moves that nobody has a good reason for, by pid. `rest` is the workload whose processes are not listed: one
    that the look before did not see was there."""
    found = []
    for pid, process in sorted(now.processes.items()):
        path = process.path
        known = before.processes.get(pid)
        if known is not None and known.started == process.started:
            source = workload_of(started_in(known.path))
        elif path in before.listed or path not in before.paths:
            source = rest
        else:  # a policy has named this cgroup since
            continue
        target = workload_of(started_in(path))  # the exec gate moves within a unit, as it should
        settled = process.started < before.at - SETTLED_SECONDS
        new_scope = path.endswith(".scope") and path not in before.paths
        if settled and source != target and not new_scope:
            found.append(Move(pid, source, target, path))
    return tuple(found)


def describe_move(move: Move, name: str) -> str:
    """For the event: `name` is what the process calls itself."""
    return (
        f"process {name or '?'} (pid {move.pid}) of workload {move.source} was moved into {move.path} of workload "
        f"{move.target}: its open connections stay {move.source}'s, new ones are {move.target}'s. Only root can do "
        "that: find out who did, and end the process"
    )
