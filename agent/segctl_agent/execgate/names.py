"""The cgroups that the exec gate makes, by name: what the gate and the agent's identity agree on. Pure."""

from __future__ import annotations

from collections.abc import Sequence

PREFIX = "segctl-exe-"
"""Of the cgroup of a workload by executable, below the cgroup that its process was started in."""


def gate_cgroup(workload: str) -> str:
    return PREFIX + workload


def gated(parts: Sequence[str]) -> str | None:
    """The workload of a path that ends in a cgroup of the gate; None for every other path.

    That the gate made it, and not a user in a subtree of their own, is for who lists cgroups: `made_by_gate`.
    """
    if len(parts) < 2 or not parts[-1].startswith(PREFIX):
        return None
    return parts[-1].removeprefix(PREFIX)


def started_in(path: str) -> str:
    """The cgroup that a process was started in, where `path` is the gate's below it; else `path`."""
    return path.rpartition("/")[0] if gated(path.split("/")) is not None else path


def may_hold(parts: Sequence[str]) -> bool:
    """Whether the gate may make a cgroup below this one. Users own what is below their managers (user@.service(5))."""
    return not any(part.startswith("user@") and part.endswith(".service") for part in parts) and gated(parts) is None


def made_by_gate(owner: int, owner_above: int) -> bool:
    """From the uids that own a cgroup's directory and the one above. Root makes the one where the other is root's: who
    owns a delegated subtree can make any name in it, and a name of ours there is no proof."""
    return owner == 0 and owner_above == 0
