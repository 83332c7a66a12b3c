"""Looks at conntrack now and then, for no more than a hundredth of a core.

ConntrackReader.read ──▶ FlowObserver ◀── SocketProcesses
                              └──▶ on_window
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from segctl.errors import KernelError
from segctl.model.hostpolicy import HostPolicy

from segctl_agent.conntrack.reader import Tally
from segctl_agent.conntrack.values import ConntrackRow
from segctl_agent.flows.attribution import Memory, ProcessesOf, nobody
from segctl_agent.flows.decisions import DecisionId, RecentDecisions
from segctl_agent.flows.observer import FlowObserver
from segctl_agent.flows.permits import PolicyIndex
from segctl_agent.flows.values import FlowWindow, Marks

log = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 5.0
SHARE: Final = 0.01
INLINE_SECONDS: Final = 0.005
"""A look that takes longer runs in a thread."""


class Table(Protocol):
    """What is needed of ConntrackReader."""

    def read(self, tally: Tally | None = None, *, mark: int = 0, mask: int = 0) -> Iterator[Sequence[ConntrackRow]]: ...

    def count(self) -> int: ...

    def delete(self, row: ConntrackRow) -> bool: ...


def log_problem(problem: str) -> None:
    log.warning("%s", problem)


class FlowWatcher:
    """`policy` is the one in force, `live` the decision ids that are, with their workloads; `on_window` is called in
    the loop's thread. `cost` tells the CPU seconds of the calling thread, `clock` Unix time in nanoseconds."""

    def __init__(
        self,
        table: Table,
        marks: Marks,
        decisions: RecentDecisions,
        policy: Callable[[], HostPolicy | None],
        live: Callable[[], Mapping[DecisionId, str]],
        on_window: Callable[[FlowWindow], None],
        cost: Callable[[], float] = time.thread_time,
        clock: Callable[[], int] = time.time_ns,
        on_problem: Callable[[str], object] = log_problem,
        processes_of: ProcessesOf = nobody,
        memory: Memory | None = None,
    ) -> None:
        self._table, self._marks, self._decisions = table, marks, decisions
        self._policy, self._live, self._on_window = policy, live, on_window
        self._cost, self._clock, self._on_problem = cost, clock, on_problem
        self._observer = FlowObserver(marks, decisions.workload, processes_of, memory)
        self._index: PolicyIndex | None = None
        self._took = INLINE_SECONDS * 2  # not known yet: the first look is in a thread
        self._problem = ""

    @property
    def interval(self) -> float:
        """Seconds between two looks."""
        return max(INTERVAL_SECONDS, self._took / SHARE)

    async def run(self) -> None:
        """Until cancelled. What the kernel refuses is told once."""
        while True:
            self._decisions.learn(self._live())
            try:
                window = await asyncio.to_thread(self.look) if self._took > INLINE_SECONDS else self.look()
            except KernelError as error:
                if str(error) != self._problem:
                    self._on_problem(f"flows are not seen: {error}")
                self._problem = str(error)
            else:
                self._problem = ""
                if window is not None and (window.rows or window.lost):
                    self._on_window(window)
            await asyncio.sleep(self.interval)

    def look(self) -> FlowWindow | None:
        """One dump; None without a policy. Raises KernelError."""
        policy = self._policy()
        if policy is None:
            self._observer.begin(self._clock() // 1000)
            return None
        if self._index is None or self._index.policy is not policy:
            self._index = PolicyIndex(policy)
        tally, began = Tally(), self._cost()
        try:
            window = self._observer.observe(self._table.read(tally), self._index, self._clock() // 1000)
        finally:
            self._took = self._cost() - began
        return replace(window, lost=window.lost + tally.left_out + tally.malformed)
