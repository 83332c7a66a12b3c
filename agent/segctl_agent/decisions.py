"""Which decisions a host policy needs, and their ids in the conntrack mark (ADR 9). Pure.

A change that takes something away from a decision gives it a fresh id: the flows under the old one are judged anew. Ids
are given in turn, round and round; one that is live, or that a flow still carries, is passed over.
"""

from __future__ import annotations

import re
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


Turn = tuple[int, int]
"""The ids that were given last, (out, in); after the first round with the largest id added, for ever."""


def turn_after(held: Turn, stored: Turn, most: int) -> Turn:
    """From where to go on, by the largest ids that the table holds and by the disk. Where the table holds a later one,
    others were given and died that nobody stored: any id may be on a flow."""
    out, into = (s if s >= h else most + h for h, s in zip(held, stored, strict=True))
    return out, into


def turn_to_number(turn: Turn) -> int:
    """For the disk: 32 bits. An id has 15 at most (MarkLayout)."""
    return turn[0] << 16 | turn[1]


def turn_from_number(number: int) -> Turn:
    return number >> 16, number & 0xFFFF


@dataclass(frozen=True, slots=True)
class Decisions:
    """`ids` of the decisions of one policy. `avoid`: what was live or on a flow when that was last asked; no other id
    comes onto a flow before it is given, so it holds for a round. None: not asked yet."""

    ids: Mapping[Decision, int] = field(default_factory=lambda: MappingProxyType({}))
    turn: Turn = (0, 0)
    avoid: frozenset[tuple[Direction, int]] | None = field(default=None, compare=False)

    @property
    def by_id(self) -> dict[tuple[Direction, int], Decision]:
        return {(d.direction, number): d for d, number in self.ids.items()}


_UNKNOWN_IN_NAMES = "UNKNOWN"  # nft takes no question mark; workloads have no capitals


def chain_name(decision: Decision, number: int) -> str:
    """Decisions are noted in the table as the names of empty chains, so that who reads it knows them."""
    until = "refused" if decision.until == REFUSED else str(decision.until)
    workload = _UNKNOWN_IN_NAMES if decision.workload == UNKNOWN else decision.workload
    return f"mark_{decision.direction}_{number}_{until}_{workload}"


_CHAIN = re.compile(r"mark_(in|out)_([1-9]\d{0,4})_(refused|0|[1-9]\d{0,9})_(.*)", re.DOTALL | re.ASCII)


def noted(chains: Iterable[str], most: int) -> Decisions | None:
    """The decisions that the names of a table's chains note. None when they are not as we write them."""
    ids: dict[Decision, int] = {}
    for name in chains:
        found = _CHAIN.fullmatch(name)
        if found is None:
            continue
        direction: Direction = "in" if found[1] == "in" else "out"
        workload = UNKNOWN if found[4] == _UNKNOWN_IN_NAMES else found[4]
        decision = Decision(direction, workload, REFUSED if found[3] == "refused" else int(found[3]))
        if decision in ids or int(found[2]) > most or chain_name(decision, int(found[2])) != name:
            return None
        ids[decision] = int(found[2])
    if not ids or len(set(Decisions(ids).by_id)) != len(ids):
        return None
    out, into = (max((n for d, n in ids.items() if d.direction == x), default=0) for x in ("out", "in"))
    return Decisions(MappingProxyType(ids), (out, into))


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
    old: Decisions,
    wanted: Iterable[Decision],
    renew: Collection[Decision],
    most: int,
    in_use: InUse = nobody,
    *,
    stranger: bool = False,
) -> Decisions:
    """Keeps the id of every decision that is not in `renew`. `stranger`: who gave ids before, and which, is not known.
    Raises KernelError when there are not enough ids."""
    wanted = tuple(wanted)
    ids = {d: old.ids[d] for d in wanted if d in old.ids and (d not in renew or not d.lives)}
    turn = {"out": old.turn[0], "in": old.turn[1]}
    taken: set[tuple[Direction, int]] = {(d.direction, n) for known in (old.ids, ids) for d, n in known.items()}
    avoid = taken.union(in_use()) if stranger else old.avoid
    for decision in wanted:
        if decision in ids:
            continue
        direction = decision.direction
        for place in range(turn[direction] + 1, turn[direction] + 2 * most + 1):
            number = (place - 1) % most + 1
            if place > most and (avoid is None or number == 1):
                avoid = taken.union(in_use())  # from the second round on a flow may carry any id
            if (direction, number) not in taken and (avoid is None or (direction, number) not in avoid):
                break
        else:
            raise KernelError(
                f"this policy needs more than {most} decision ids, or so many are still on live flows: give the agent "
                "a wider --mark-mask"
            )
        ids[decision], turn[direction] = number, place if place <= most else most + number
        taken.add((direction, number))
    spared = frozenset(avoid) if avoid is not None else None
    return Decisions(MappingProxyType(ids), (turn["out"], turn["in"]), spared)
