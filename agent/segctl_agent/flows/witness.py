"""Asks whose flows are as they begin. A connection of some milliseconds has no socket any more when conntrack is
dumped; while there is time to ask at once, its process is known all the same.

    NEW event ──▶ mark ──▶ goes out? ──▶ SocketProcesses ──▶ Memory ──▶ FlowObserver, at the next dump

What comes in needs none of it: who listens is there at the dump, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from segctl.errors import KernelError

from segctl_agent.conntrack.events import NewEntries
from segctl_agent.conntrack.values import TCP, UDP, ConntrackRow
from segctl_agent.flows.attribution import Asked, Memory, ProcessesOf, Service, asked_of
from segctl_agent.flows.observer import WorkloadOf, attributed, name_of
from segctl_agent.flows.values import Marks, side

log = logging.getLogger(__name__)

SHARE: Final = 0.005
"""Of a core, over time."""
BURST_SECONDS: Final = 0.05
"""May be spent at once. Who spent all listens again when half of it is there."""


class Entries(Protocol):
    """What is needed of NewEntries."""

    def fileno(self) -> int: ...

    def read(self) -> Sequence[ConntrackRow]: ...

    def close(self) -> None: ...


class Witness:
    """Listens while its share of a core lasts, in the loop's thread. When half of what it may spend is gone, it asks
    only about services that nobody was seen to call yet. `cost`: the CPU seconds of the thread."""

    def __init__(
        self,
        marks: Marks,
        workload_of: WorkloadOf,
        processes_of: ProcessesOf,
        memory: Memory,
        listen: Callable[[], Entries] = NewEntries,
        clock: Callable[[], float] = time.monotonic,
        cost: Callable[[], float] = time.thread_time,
    ) -> None:
        self._marks, self._workload_of, self._processes_of, self._memory = marks, workload_of, processes_of, memory
        self._listen, self._clock, self._cost = listen, clock, cost
        self._allowance, self._at = BURST_SECONDS, clock()

    async def run(self) -> None:
        """Until cancelled, or until the kernel refuses: flows are then attributed by what the dumps find."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(max(0.0, BURST_SECONDS / 2 - self._earned()) / SHARE)
            over: asyncio.Future[None] = loop.create_future()
            try:
                entries = self._listen()
            except KernelError as error:
                log.warning("processes of short flows are not known: %s", error)
                return
            loop.add_reader(entries.fileno(), self._ready, entries, over)
            try:
                await over
            except KernelError as error:
                log.warning("processes of short flows are not known: %s", error)
                return
            except Exception:
                log.exception("processes of short flows are not known: unexpected error")
                return
            finally:
                loop.remove_reader(entries.fileno())
                entries.close()

    def _ready(self, entries: Entries, over: asyncio.Future[None]) -> None:
        if over.done():
            return
        try:
            if not self.take(entries):
                over.set_result(None)
        except Exception as error:  # noqa: BLE001 - `run` tells it
            over.set_exception(error)

    def take(self, entries: Entries) -> bool:
        """What has come. Answers whether there is time for more. Raises KernelError."""
        began = self._cost()
        try:
            asked = list(self._worth_asking(entries.read(), eager=self._earned() > BURST_SECONDS / 2))
            told = self._processes_of([one for _, _, one in asked]) if asked else ()
            for (name, service, _), process in zip(asked, told, strict=True):
                if process:
                    self._memory.witness(name, process)
                    self._memory.learn(service, process)
        finally:
            self._allowance -= self._cost() - began
        return self._allowance > 0

    def _worth_asking(self, rows: Sequence[ConntrackRow], *, eager: bool) -> list[tuple[int, Service, Asked]]:
        found = []
        for row in rows:
            if row.protocol not in (TCP, UDP):
                continue
            for half in attributed(row.mark, self._marks, self._workload_of):
                if half.direction == "out":
                    seen = side(row, "out")
                    service = Service("out", half.workload, seen.remote, row.protocol, seen.port)
                    if eager or not self._memory.recall(service):
                        found.append((name_of(row, "out"), service, asked_of(row, "out")))
        return found

    def _earned(self) -> float:
        now = self._clock()
        self._allowance = min(BURST_SECONDS, self._allowance + (now - self._at) * SHARE)
        self._at = now
        return self._allowance
