"""Ends sessions that a narrowed policy no longer permits and that send nothing.

A decision that died is noticed by the next packet of each of its flows. A session without traffic would linger; so
after the commit every flow under a dead id is judged here, by the policy and the socket's own workload, as the kernel
would judge its next packet. What is still permitted is left alone: its next packet gets it a live id. So are flows of
essentials and the agent's own channel, which no rule permits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterator, Sequence
from dataclasses import dataclass, field
from time import time

from segctl.errors import KernelError
from segctl.model.hostpolicy import HostPolicy

from segctl_agent.conntrack.values import ConntrackRow
from segctl_agent.facts.sockdiag import SockDiag
from segctl_agent.facts.values import Endpoint
from segctl_agent.flows.decisions import DecisionId
from segctl_agent.flows.live import LiveFlow, live_flows, passes
from segctl_agent.flows.observer import WorkloadOf
from segctl_agent.flows.permits import PolicyIndex
from segctl_agent.flows.sockets import LocalSocket, WorkloadOfSocket, find_socket
from segctl_agent.flows.values import ESSENTIALS, Marks
from segctl_agent.flows.watcher import Table

_ENTRIES_A_WALK = 2000
"""The kernel's walk over its buckets takes as long as to read so many entries."""


@dataclass(slots=True)
class Swept:
    """dead: flows under a dead id. ended: sockets that were ended. forgotten: entries deleted where no socket of this
    flow alone is here (UDP without a peer, containers). lingering: forbidden flows, or flows of unknown workload, that
    the kernel could not end: they end with their next packet. problems: why, each once."""

    dead: int = 0
    ended: int = 0
    forgotten: int = 0
    lingering: int = 0
    problems: dict[str, None] = field(default_factory=dict)


class Sweeper:
    """`workload_of` knows dead ids too (RecentDecisions.workload); `workload_of_socket` places a socket by the policy
    in force, None when its cgroup is not known (see `SocketPlaces`). `controllers`: the ends of the agent's channel."""

    def __init__(
        self,
        table: Table,
        marks: Marks,
        workload_of: WorkloadOf,
        workload_of_socket: WorkloadOfSocket,
        controllers: Callable[[], Collection[Endpoint]] = tuple,
        clock: Callable[[], float] = time,
    ) -> None:
        self._table, self._marks, self._clock = table, marks, clock
        self._workload_of, self._workload_of_socket = workload_of, workload_of_socket
        self._controllers = controllers
        self._held: frozenset[DecisionId] | None = None  # dead, and still on a flow when we last looked

    def sweep(
        self, policy: HostPolicy, live_ids: Container[DecisionId], died: Collection[DecisionId] | None = None
    ) -> Swept:
        """To be called after the commit of `policy`, whose ids are `live_ids`; `died`: those that died since the last
        call, when that is known. About 10 ms, 5 us for each entry of the table, or 10 ms for each dead id, whichever
        is less, and 0.1 ms for each flow under one: call it in a thread, one call at a time. Raises KernelError when
        conntrack or sock_diag cannot be read."""
        swept, index, now = Swept(), PolicyIndex(policy), self._clock()
        spared = {(e.address.packed, e.port) for e in self._controllers()}
        dead: dict[object, LiveFlow] = {}
        for flow in live_flows(self._rows(died), self._marks):
            row, decision = flow.row, (flow.direction, flow.number)
            if decision in live_ids or (row.destination, row.destination_port) in spared:
                continue
            if self._workload_of(*decision) != ESSENTIALS:
                dead[row[:5], row.id, flow.direction] = flow
        swept.dead = len(dead)
        self._held = frozenset((f.direction, f.number) for f in dead.values())
        if dead:
            with SockDiag() as diag:
                for flow in dead.values():
                    self._one(flow, index, now, diag, swept)
        return swept

    def _rows(self, died: Collection[DecisionId] | None) -> Iterator[Sequence[ConntrackRow]]:
        """All entries, or those that the kernel picks by an id that died, now or before and was still on a flow."""
        wanted = None if died is None or self._held is None else self._held | frozenset(died)
        if wanted is None or self._table.count() < _ENTRIES_A_WALK * len(wanted):
            yield from self._table.read()
            return
        for direction, number in sorted(wanted):
            mask = self._marks.out_mask if direction == "out" else self._marks.in_mask
            yield from self._table.read(mark=number * (mask & -mask), mask=mask)

    def _one(self, flow: LiveFlow, index: PolicyIndex, now: float, diag: SockDiag, swept: Swept) -> None:
        found = find_socket(flow, diag)
        if found is None:
            workload = self._workload_of(flow.direction, flow.number)
        else:
            workload = self._workload_of_socket(flow.direction, found.info)
        if workload is None:
            swept.lingering += 1
            swept.problems["the workload of its socket is not known"] = None
        elif not passes(flow, workload, index, now):
            self._end(flow, found, diag, swept)

    def _end(self, flow: LiveFlow, found: LocalSocket | None, diag: SockDiag, swept: Swept) -> None:
        """The socket first: what it still sends on its way out, its conntrack entry tells apart."""
        if found is not None and found.own:
            try:
                if diag.destroy(found.info, *found.local, *found.remote):
                    swept.ended += 1
            except KernelError as error:
                swept.lingering += 1
                swept.problems[str(error)] = None
                return
            self._table.delete(flow.row)
        elif self._table.delete(flow.row):
            swept.forgotten += 1
