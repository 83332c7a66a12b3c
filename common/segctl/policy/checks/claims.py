"""What a workload can claim: processes that another one claims too, and connections that it never gets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations

from segctl.model.findings import Finding
from segctl.model.policy import Policy, Process, ProcessKind, Workload
from segctl.policy.checks.globs import globs_meet, is_glob
from segctl.policy.checks.terms import warning


def find_rival_workloads(policy: Policy) -> Iterator[Finding]:
    """Pairs of one kind and one precedence (literal, or globs of one length) that could live on one host."""
    rivals: dict[tuple[ProcessKind, bool, int], list[Workload]] = defaultdict(list)
    for workload in policy.workloads.values():
        pattern = workload.process.pattern
        rivals[workload.process.kind, _is_glob(workload.process), len(pattern)].append(workload)
    for group in rivals.values():
        for first, second in combinations(sorted(group, key=lambda w: w.name), 2):
            if not first.on.conflicts(second.on) and _meet(first.process, second.process):
                message = (
                    f"workload {second.name} may claim the same process as workload {first.name} ({first.where}) "
                    f"on one host; {first.name} gets it, being first by name"
                )
                hint = "make one pattern more precise, or tell their hosts apart by on"
                yield warning(second.where, "workload-overlap", message, hint)


def find_incoming_by_group(policy: Policy) -> Iterator[Finding]:
    """Rules to a workload by group: the kernel does not tell a listener's group, so nothing listens as it."""
    by_group = {w.name for w in policy.workloads.values() if w.process.kind is ProcessKind.GROUP}
    for rule in policy.rules:
        if rule.destination.workload in by_group:
            message = (
                f"rule {rule.name} opens nothing: incoming connections are never those of a workload by group, as "
                f"{rule.destination.workload} is"
            )
            hint = "let it go to workload host, or name the listener by its unit"
            yield warning(rule.where, "group-incoming", message, hint)


def _is_glob(process: Process) -> bool:
    return process.kind in (ProcessKind.UNIT, ProcessKind.CGROUP) and is_glob(process.pattern)


def _meet(a: Process, b: Process) -> bool:
    if a.pattern == b.pattern or not _is_glob(a):
        return a.pattern == b.pattern
    if a.kind is ProcessKind.CGROUP:
        # Everything below a match belongs to it, so a shorter path meets what lies below it.
        return all(globs_meet(x, y) for x, y in zip(a.pattern.split("/"), b.pattern.split("/"), strict=False))
    return globs_meet(a.pattern, b.pattern)
