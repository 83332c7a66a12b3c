"""Everything of one agent that reads conntrack, wired: flows to the report queue, impacts, the sweep after a commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

from segctl.errors import KernelError
from segctl.model.hostpolicy import HostPolicy
from segctl.proto.v1 import agent_pb2 as pb

from segctl_agent.conntrack.reader import ConntrackReader
from segctl_agent.conversation import ImpactAsked
from segctl_agent.denials.attribute import Attributor
from segctl_agent.facts.values import Endpoint
from segctl_agent.flows.answer import ImpactAnswerer
from segctl_agent.flows.attribution import Memory, ProcessesOf, nobody
from segctl_agent.flows.decisions import DecisionId, RecentDecisions
from segctl_agent.flows.sockets import SocketPlaces
from segctl_agent.flows.sweep import Sweeper, Swept
from segctl_agent.flows.values import FlowWindow, Marks
from segctl_agent.flows.watcher import FlowWatcher, Table, log_problem
from segctl_agent.flows.witness import Witness
from segctl_agent.identity import Identity
from segctl_agent.messages import flow_batches

log = logging.getLogger(__name__)

_MOST_TOLD = 20


class FlowService:
    """`policy` and `live` (id -> workload of every decision that is live now) are what the kernel holds, `identity`
    places cgroups by it; `controllers` are the ends of the agent's channel. `path_of`, `attributor` and `processes_of`
    must be good for other threads (CgroupWatcher.known_path). `on_window` and `on_batch` take what is to be reported,
    `on_problem` what the kernel refuses, all in the loop's thread."""

    def __init__(
        self,
        host: str,
        marks: Marks,
        policy: Callable[[], HostPolicy | None],
        live: Callable[[], Mapping[DecisionId, str]],
        identity: Callable[[], Identity | None],
        path_of: Callable[[int], str | None],
        attributor: Attributor,
        controllers: Callable[[], Collection[Endpoint]],
        on_batch: Callable[[pb.FlowBatch], None],
        table: Table | None = None,
        on_problem: Callable[[str], object] = log_problem,
        on_window: Callable[[FlowWindow], object] = lambda _: None,
        processes_of: ProcessesOf = nobody,
        at_once: ProcessesOf = nobody,
    ) -> None:
        table = table if table is not None else ConntrackReader()
        self._policy, self._live, self._on_batch, self._on_window = policy, live, on_batch, on_window
        self._on_problem, self._told = on_problem, set[str]()
        self._decisions = RecentDecisions()
        memory = Memory()
        self._watcher = FlowWatcher(
            table,
            marks,
            self._decisions,
            policy,
            live,
            self._report,
            on_problem=self._tell,
            processes_of=processes_of,
            memory=memory,
        )
        self._witness = Witness(marks, self._decisions.workload, at_once, memory)
        self._answerer = ImpactAnswerer(host, table, marks, self._decisions, policy, live, attributor.describe)
        places = SocketPlaces(identity, path_of)
        self._sweeper = Sweeper(table, marks, self._decisions.workload, places, controllers)
        self._sweeping = asyncio.Lock()
        self._known: frozenset[DecisionId] = frozenset()
        self._died: frozenset[DecisionId] = frozenset()
        self._swept = False

    async def run(self) -> None:
        """Watches flows until cancelled."""
        await asyncio.gather(self._watcher.run(), self._witness.run())

    def look(self) -> None:
        """One look, now. Raises KernelError."""
        self.committed()
        window = self._watcher.look()
        if window is not None:
            self._report(window)

    async def impact(self, asked: ImpactAsked) -> pb.ImpactReply:
        """Agent.answer_impact."""
        return await self._answerer.answer(asked)

    def committed(self) -> None:
        """After every commit, at once: what ids stand for is remembered beyond their death."""
        live = self._live()
        self._decisions.learn(live)
        self._died |= self._known - live.keys()
        self._known = frozenset(live)

    async def sweep(self) -> Swept:
        """After every commit, and now and then for decisions that end by themselves. Looks at nothing when no id died
        since the last call. What the kernel refuses is told: sessions then end at their next packet."""
        self.committed()
        async with self._sweeping:
            policy, live, died = self._policy(), self._known, self._died
            if policy is None or (self._swept and not died):
                return Swept()
            self._died = frozenset()
            try:
                swept = await asyncio.to_thread(self._sweeper.sweep, policy, live, died)
            except KernelError as error:
                self._died |= died
                self._tell(f"idle sessions are not ended now, but at their next packet: {error}")
                return Swept(problems={str(error): None})
            self._swept = True
        if swept.ended or swept.forgotten or swept.lingering:
            log.info("%s", summary(swept))
        return swept

    def _tell(self, problem: str) -> None:
        """Once: what the kernel lacks it lacks at every look, and there is one a second."""
        if problem not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(problem)
            self._on_problem(problem)

    def _report(self, window: FlowWindow) -> None:
        self._on_window(window)
        for batch in flow_batches(window):
            self._on_batch(batch)


def summary(swept: Swept) -> str:
    """A sentence for the journal."""
    why = f" ({'; '.join(swept.problems)})" if swept.problems else ""
    return (
        f"after the change {swept.ended} idle sessions were ended, {swept.forgotten} without a socket here forgotten, "
        f"{swept.lingering} end at their next packet{why}"
    )
