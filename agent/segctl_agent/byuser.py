"""The workloads by user and by group of a host policy: the names to resolve, and what to say of those that do not."""

from __future__ import annotations

from collections.abc import Mapping

from segctl.model.hostpolicy import HostPolicy
from segctl.model.policy import Process, ProcessKind

GROUP_PREFIX = "group:"


def owner_key(process: Process) -> str:
    """How HostFacts.users names the owner: a user as it is, a group as `group:NAME`. No name of a user holds a colon
    (passwd(5))."""
    return GROUP_PREFIX + process.pattern if process.kind is ProcessKind.GROUP else process.pattern


def user_names(policy: HostPolicy) -> list[str]:
    """Names and decimal numbers, as the policy writes them, by `owner_key`."""
    return [owner_key(process) for _, process in _by_owner(policy)]


def user_notes(policy: HostPolicy, users: Mapping[str, int]) -> tuple[str, ...]:
    """A sentence for each workload whose user or group this host does not know."""
    return tuple(
        f"workload {workload}: this host knows no {process.kind} {process.pattern!r}, so no process belongs to it "
        f"until the {process.kind} exists and the policy is sent again"
        for workload, process in _by_owner(policy)
        if owner_key(process) not in users
    )


def _by_owner(policy: HostPolicy) -> list[tuple[str, Process]]:
    return [
        (w.name, w.process)
        for w in policy.workloads
        if w.process is not None and w.process.kind in (ProcessKind.USER, ProcessKind.GROUP)
    ]
