"""Which decisions a host policy needs, and their ids in the conntrack mark (ADR 9). Pure.

A change that takes something away from a decision gives it a fresh id: the flows under the old one are judged anew. Ids
are given in turn, round and round; one that is live, or that a flow still carries, is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from segctl.errors import KernelError
from segctl.model.hostpolicy import HostPolicy
from segctl.model.policy import Mode

from segctl_agent.identity import DIRECTIONS, Direction

ESSENTIALS = ""
"""The workload of what passes whatever the policy says. No workload has an empty name."""
UNKNOWN = "?"
"""The workload of sockets whose cgroup is not known."""
REFUSED = -1
"""`until` of the decision that names refused flows: never live."""


@dataclass(frozen=True, slots=True, order=True)
class Decision:
    """What a workload is permitted in one direction until a Unix time (0: without end)."""

    direction: Direction
    workload: str
    until: int = 0

    @property
    def lives(self) -> bool:
        return self.until != REFUSED


@dataclass(frozen=True, slots=True)
class Decisions:
    """`ids` of the decisions of one policy. `turn` is the id given last in each direction, (out, in)."""

    ids: Mapping[Decision, int] = field(default_factory=lambda: MappingProxyType({}))
    turn: tuple[int, int] = (0, 0)

    @property
    def by_id(self) -> dict[tuple[Direction, int], Decision]:
        return {(d.direction, number): d for d, number in self.ids.items()}


InUse = Callable[[], Collection[tuple[Direction, int]]]


def nobody() -> Collection[tuple[Direction, int]]:
    return ()


def needed(policy: HostPolicy) -> tuple[Decision, ...]:
    """The decisions of a policy, in a fixed order."""
    out = {Decision(d, ESSENTIALS) for d in DIRECTIONS}
    out |= {Decision(d, UNKNOWN, REFUSED) for d in DIRECTIONS}
    for workload in policy.workloads:
        for direction in DIRECTIONS:
            entries = workload.ingress if direction == "in" else workload.egress
            out |= {Decision(direction, workload.name, until) for until in {0, *(e.until for e in entries)}}
            if workload.mode is not Mode.OBSERVE:
                out.add(Decision(direction, workload.name, REFUSED))
    return tuple(sorted(out))


def assign(
    old: Decisions, wanted: Iterable[Decision], renew: Collection[Decision], most: int, in_use: InUse = nobody
) -> Decisions:
    """Keeps the id of every decision that is not in `renew`. Raises KernelError when there are not enough ids."""
    wanted = tuple(wanted)
    ids = {d: old.ids[d] for d in wanted if d in old.ids and (d not in renew or not d.lives)}
    turn = {"out": old.turn[0], "in": old.turn[1]}
    taken: set[tuple[Direction, int]] = {(d.direction, n) for known in (old.ids, ids) for d, n in known.items()}
    carried: Collection[tuple[Direction, int]] | None = None
    for decision in wanted:
        if decision in ids:
            continue
        direction = decision.direction
        for step in range(1, most + 1):
            number = (turn[direction] + step - 1) % most + 1
            if number <= turn[direction] and carried is None:
                carried = in_use()  # round again: only now can a flow carry an id that is to be given
            if (direction, number) not in taken and (carried is None or (direction, number) not in carried):
                break
        else:
            raise KernelError(
                f"this policy needs more than {most} decision ids, or as many are still on live flows: give the agent a "
                "wider --mark-mask"
            )
        ids[decision] = turn[direction] = number
        taken.add((direction, number))
    return Decisions(MappingProxyType(ids), (turn["out"], turn["in"]))
