"""What the agent sees happen and reports: denials, flows, hits of rules, moved processes; and sessions that it ends.

    NFLOG, denied sets ──▶ DenialPipeline ─┐
    conntrack ──▶ FlowService ─────────────┼──▶ ReportQueue
    named counters ──▶ HitCounter ─────────┘

Nothing here decides about packets: where one of them cannot work, the policy is enforced all the same, and it is told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from segctl.errors import KernelError, StateError
from segctl.model.policy import HOST_WORKLOAD
from segctl.proto.v1 import agent_pb2 as pb

from segctl_agent.agent import Agent
from segctl_agent.denials.attribute import Attributor
from segctl_agent.denials.contained import ContainedAttributor
from segctl_agent.denials.nflog import NflogReader
from segctl_agent.denials.pipeline import DenialPipeline
from segctl_agent.denials.sampler import DeniedSets
from segctl_agent.denials.values import Denial, Verdict
from segctl_agent.facts.cgroups import CgroupWatcher
from segctl_agent.facts.moves import MOVES_SECONDS, MoveWatcher
from segctl_agent.flows.decisions import DecisionId
from segctl_agent.flows.processes import SocketProcesses
from segctl_agent.flows.service import FlowService
from segctl_agent.flows.sweep import Swept
from segctl_agent.flows.values import FlowWindow
from segctl_agent.hits import HitCounter
from segctl_agent.identity import Direction
from segctl_agent.messages import denial_message, hit_messages
from segctl_agent.render import denied_counters
from segctl_agent.state import StateFolder

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
COUNTERS_SECONDS = 5.0
STORE_HITS_SECONDS = 60.0


class HitKeeper:
    """The counts of rules between the kernel, the disk and the reports. Made before the enforcer, which gives it the
    counters that are about to go."""

    def __init__(self, folder: StateFolder, enrolment: str = "") -> None:
        self._folder, self._counter, self._stored = folder, HitCounter(enrolment), b""
        try:
            content = folder.read_hits()
            if content:
                self._counter.load(content)
                self._stored = content
        except StateError as error:
            log.warning("%s", error)

    def look(self, packets: Mapping[str, int]) -> None:
        self._counter.look(packets, time.time_ns() // 1000)

    def changed(self) -> list[pb.RuleHits]:
        return hit_messages(self._counter.changed())

    def store(self) -> None:
        """The kernel's counters outlive the agent, so what was not stored is counted at the next start."""
        content = self._counter.dump()
        if content == self._stored:
            return
        try:
            self._folder.write_hits(content)
            self._stored = content
        except StateError as error:
            log.warning("%s", error)


class Observers:
    """Wired to one agent. `start` in its loop, `jobs` for its clockwork, `run` as a task, `close` at the end."""

    def __init__(self, agent: Agent, cgroups: CgroupWatcher, hits: HitKeeper) -> None:
        self._agent, self._cgroups, self._hits = agent, cgroups, hits
        self._pipeline: DenialPipeline | None = None
        self._flows: FlowService | None = None
        self._sweeps: set[asyncio.Task[Swept]] = set()
        self._moves = MoveWatcher(cgroups.root, rest=HOST_WORKLOAD)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._start_denials(loop)
        self._start_flows(loop)

    async def run(self) -> None:
        if self._flows is not None:
            await self._flows.run()
        else:
            await asyncio.Event().wait()

    def close(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
        self._hits.store()

    def jobs(self) -> list[tuple[float, Callable[[], Awaitable[None]]]]:
        return [
            (SWEEP_SECONDS, self._sweep),
            (COUNTERS_SECONDS, self._count),
            (STORE_HITS_SECONDS, self._store_hits),
            (MOVES_SECONDS, self._look_for_moves),
        ]

    # Denials

    def _start_denials(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            attributor = Attributor(self._cgroups.path_of, self._cgroups.root)
            contained = ContainedAttributor(lambda: self._agent.containers, attributor.attribute_many)
            pipeline = DenialPipeline(
                NflogReader(),
                contained.attribute_many,
                self._denied,
                lambda: self._agent.in_force().generation,
                sets=DeniedSets(),
                name_of=self._denier,
            )
            pipeline.start(loop)
        except KernelError as error:
            self._agent.tell("kernel", f"denials are enforced but cannot be described: {error}")
            return
        self._pipeline = pipeline

    def _denier(self, direction: Direction, mark: int) -> tuple[str, Verdict] | None:
        """Whose denial a mark in the kernel's sets stands for."""
        enforcer = self._agent.enforcer
        decision = enforcer.decision_of(direction, enforcer.layout.id_of(direction, mark))
        if decision is None:
            return None
        return decision.workload, "would-deny" if decision.lives else "denied"

    def _denied(self, denials: list[Denial], lost: int) -> None:
        for denial in denials:
            self._agent.tally.denied(denial.ingress, denial.verdict, denial.count)
            self._agent.reports.add_denial(denial_message(denial))
        self._agent.generations.denied(denials)
        if lost:
            self._agent.tally.undescribed += lost
            self._agent.reports.add_lost(lost)
        self._agent.report_waiting()

    # Flows, and sessions that must end

    def _start_flows(self, loop: asyncio.AbstractEventLoop) -> None:
        enforcer = self._agent.enforcer
        try:
            attributor = Attributor(self._cgroups.known_path, self._cgroups.root)
            processes = self._processes()
            flows = self._flows = FlowService(
                self._agent.host,
                enforcer.layout,
                lambda: enforcer.policy,
                self._live_decisions,
                lambda: enforcer.identity,
                self._cgroups.known_path,
                attributor,
                lambda: enforcer.facts.controller,
                self._seen,
                on_problem=partial(self._agent.tell, "kernel"),
                on_window=self._note,
                processes_of=processes,
                at_once=processes.at_once,
            )
        except KernelError as error:
            self._agent.tell("kernel", f"flows cannot be seen, and a session ends at its next packet: {error}")
            return
        self._agent.answer_impact = flows.impact

        def committed() -> None:
            task = loop.create_task(flows.sweep())
            self._sweeps.add(task)
            task.add_done_callback(self._sweeps.discard)

        self._agent.generations.committed = committed

    def _processes(self) -> SocketProcesses:
        """What it cannot read is in the journal once: flows are told all the same."""
        told: set[str] = set()

        def problem(text: str) -> None:
            if text not in told:
                told.add(text)
                log.warning("%s", text)

        return SocketProcesses(self._cgroups.known_path, lambda: self._agent.containers, problem, self._cgroups.root)

    def _live_decisions(self) -> dict[DecisionId, str]:
        now = time.time()
        known = self._agent.enforcer.decisions.by_id.items()
        return {key: d.workload for key, d in known if d.lives and not 0 < d.until <= now}

    def _note(self, window: FlowWindow) -> None:
        if self._agent.generations.trial is None:  # what begins on trial is not what was there before
            self._agent.generations.seen.note(window)

    def _seen(self, batch: pb.FlowBatch) -> None:
        self._agent.reports.add_flows(batch)
        self._agent.report_waiting()

    async def _sweep(self) -> None:
        """For permissions that ended by themselves."""
        if self._flows is not None and not self._agent.working:
            await self._flows.sweep()

    # Counters

    async def _count(self) -> None:
        enforcer = self._agent.enforcer
        if enforcer.policy is None or self._agent.working:
            return
        if self._pipeline is not None:
            self._pipeline.account(denied_counters(enforcer.counters(), enforcer.policy))
        self._hits.look(enforcer.hits())
        changed = self._hits.changed()
        if changed:
            self._agent.reports.add_hits(changed)
            self._agent.report_waiting()

    async def _store_hits(self) -> None:
        self._hits.store()

    # Moved processes

    async def _look_for_moves(self) -> None:
        """In a thread: on a large host a look takes some milliseconds, and a new cgroup must not wait for it."""
        identity = self._agent.enforcer.identity
        if identity is None:
            return
        paths = tuple(self._cgroups.current())
        for sentence in await asyncio.to_thread(self._moves.look, paths, lambda path: identity.place(path).workload):
            self._agent.tell("tamper", sentence)
