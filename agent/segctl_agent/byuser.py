"""The workloads by user of a host policy: the names to resolve, and what to say of those that do not."""

from __future__ import annotations

from collections.abc import Mapping

from segctl.model.hostpolicy import HostPolicy
from segctl.model.policy import ProcessKind


def user_names(policy: HostPolicy) -> list[str]:
    """Names and decimal uids, as the policy writes them."""
    return [user for _, user in _by_user(policy)]


def user_notes(policy: HostPolicy, users: Mapping[str, int]) -> tuple[str, ...]:
    """A sentence for each workload whose user this host does not know."""
    return tuple(
        f"workload {workload}: this host knows no user {user!r}, so no process belongs to it until the user exists and "
        "the policy is sent again"
        for workload, user in _by_user(policy)
        if user not in users
    )


def _by_user(policy: HostPolicy) -> list[tuple[str, str]]:
    return [
        (w.name, w.process.pattern)
        for w in policy.workloads
        if w.process is not None and w.process.kind is ProcessKind.USER
    ]
