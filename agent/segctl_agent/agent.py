"""The agent between its session, its watchers and the enforcer: one writer, nothing lost, nothing half done.

Everything runs in the loop's thread, except a policy so large that rendering it would keep the loop from its watchers:
that one is applied in a thread, and what happens meanwhile waits in `_deferred`, in order.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TypeVar

from segctl.errors import KernelError, StateError
from segctl.logs import about, kind_of
from segctl.model.hostpolicy import HostPolicy
from segctl.proto.v1 import agent_pb2 as pb

from segctl_agent.applied import Applied
from segctl_agent.boot import put_last_good
from segctl_agent.change import size_of
from segctl_agent.conversation import Activation, Confirmation, ImpactAsked, InForce, NewPolicy, Withdrawal
from segctl_agent.enforcer import Enforcer
from segctl_agent.execgate.lock import gate_runs
from segctl_agent.execgate.targets import targets_of, write_targets
from segctl_agent.facts.values import Address, ContainerFact, Endpoint, ListenerFact
from segctl_agent.generations import Generations
from segctl_agent.messages import event_message, facts_message
from segctl_agent.nft.ruleset import TABLE
from segctl_agent.nft.watch import TamperNotice
from segctl_agent.probe import answer
from segctl_agent.release import keep_release
from segctl_agent.reports import ReportQueue
from segctl_agent.session import Ended, Proof
from segctl_agent.state import StateFolder
from segctl_agent.strength import describe_identity
from segctl_agent.tally import Tally
from segctl_agent.throttle import Throttle

log = logging.getLogger(__name__)

T = TypeVar("T")
LARGE_POLICY = 5_000
"""Networks and entries from which on a policy is applied in a thread: about 50 ms."""
_HEAL_AGAIN_SECONDS = 0.2


class Agent:
    """Implements session.Host. `facts_changed`, `in_force_changed` and `report_waiting` are called when there is
    something to send, `read_notices` to learn who changed the ruleset before
    what was changed is looked for."""

    def __init__(self, folder: StateFolder, host: str, enforcer: Enforcer, reports: ReportQueue) -> None:
        self.folder, self.host, self.enforcer, self.reports = folder, host, enforcer, reports
        self.facts_changed: Callable[[], object] = lambda: None
        self.in_force_changed: Callable[[], object] = lambda: None
        self.report_waiting: Callable[[], object] = lambda: None
        self.generations = Generations(folder, enforcer, self._work, self._ready, self.tell)
        self.answer_impact: Callable[[ImpactAsked], Awaitable[pb.ImpactReply]] | None = None
        self.read_notices: Callable[[], object] = lambda: None
        self.listeners: tuple[ListenerFact, ...] = ()
        self.table_guard = ""
        self.containers: tuple[ContainerFact, ...] = ()
        self.held = ""
        self.status = "starting"
        self.tally = Tally()
        self.compared_at = time.monotonic()
        self.generations.applied = self._applied
        self._working = False
        self._deferred: deque[Callable[[], None]] = deque()
        self._throttle = Throttle()
        self._healing: asyncio.TimerHandle | None = None
        self._culprit: TamperNotice | None = None
        self._problem = ""
        self._unproven = False
        self._gate_missed = self._gate_told = False

    def start(self) -> None:
        """The last good generation in force. Raises KernelError."""
        keep_release(self.folder)
        boot = put_last_good(self.folder, self.host, self.enforcer)
        self.held, self.status = self.folder.held, boot.status
        self.generations.begin(boot, self.held)
        if boot.policy is not None:
            try:
                write_targets(self.folder.path, boot.policy)
            except StateError as error:
                self.tell("state", str(error))
        for problem in boot.problems:
            self.tell("state", problem)

    @property
    def working(self) -> bool:
        """A policy is being applied in a thread: the kernel and the enforcer are its own now."""
        return self._working

    @property
    def behind(self) -> bool:
        """The kernel refuses what it should hold; it is tried again and again."""
        return bool(self._problem)

    @property
    def stored(self) -> bool:
        """What is in force would survive a reboot."""
        return self.generations.stored

    # What the session asks

    def in_force(self) -> InForce:
        return self.generations.in_force

    def holding(self) -> HostPolicy | None:
        return self.enforcer.policy

    def ended(self) -> Ended | None:
        return self.generations.ended

    async def settled(self) -> None:
        await self.generations.settled()

    def heard(self) -> None:
        self.generations.heard()

    def facts(self) -> pb.Facts:
        facts = self.enforcer.facts
        identity = self.enforcer.identity
        policy = self.enforcer.policy
        workloads = (
            describe_identity(policy, facts.users, facts.cgroups, identity, facts.containers)
            if policy is not None
            else ()
        )
        kernel = os.uname().release
        message = facts_message(facts.addresses, facts.cgroups, self.listeners, identity, kernel, workloads)
        message.table_guard, message.mark_mask = self.table_guard, self.enforcer.layout.mask
        return message

    def probe(self, request: pb.ProbeRequest) -> pb.ProbeReply:
        if self._working:
            return pb.ProbeReply(id=request.id, error="a policy is being applied: ask again in a moment")
        try:
            ruleset = self.enforcer.read()
        except KernelError as error:
            return pb.ProbeReply(id=request.id, error=str(error))
        return answer(request, ruleset, self.enforcer.policy, self.enforcer.facts, self._why_open())

    async def impact(self, asked: ImpactAsked) -> pb.ImpactReply:
        if self.answer_impact is None:
            return pb.ImpactReply(id=asked.id, error="this agent cannot read its host's connections")
        return await self.answer_impact(asked)

    def _why_open(self) -> str:
        """Why there is no table, when there is none."""
        if self.held:
            return "released"
        return "no generation yet" if self.enforcer.policy is None else "the table is gone and is put back in a moment"

    async def put(self, new: NewPolicy) -> Proof:
        return await self._changed(self.generations.put(new))

    async def stage(self, new: NewPolicy) -> None:
        await self.generations.stage(new)

    async def activate(self, asked: Activation) -> Proof:
        return await self._changed(self.generations.activate(asked))

    async def confirm(self, asked: Confirmation) -> Proof:
        return await self._changed(self.generations.confirm(asked))

    async def take_back(self, asked: Withdrawal) -> None:
        await self.generations.take_back(asked)
        self._after_trial()

    def _applied(self, applied: Applied) -> None:
        self.compared_at = time.monotonic()
        self.tally.applied.add(applied.apply_us / 1e6)

    async def _changed(self, change: Coroutine[object, object, Proof]) -> Proof:
        proof = await change
        trial = " on trial" if self.generations.trial is not None else ""
        self.status = f"generation {self.in_force().generation} in force{trial}"
        self.facts_changed()  # units are told by workload
        return proof

    def _ready(self) -> None:
        """Raises StateError while this host is released."""
        self.check_hold()
        if self.held:
            raise StateError(f"{self.held}. The policy is not applied until `segctl-agent load` on that host ends it")
        self.look()  # what the change would undo in passing is told too

    async def _work(self, action: Callable[[], T], policy: HostPolicy) -> T:
        """In a thread where the policy is large."""
        if size_of(policy) < LARGE_POLICY:
            return action()
        self._working = True
        try:
            return await asyncio.to_thread(action)
        finally:
            self._working = False
            while self._deferred:
                self._deferred.popleft()()

    async def check_trial(self) -> None:
        """To be called every second."""
        before = self.generations.trial
        await self.generations.check()
        if before is not None and self.generations.trial is None:
            self._after_trial()

    def _after_trial(self) -> None:
        number = self.in_force().generation
        self.status = f"generation {number} in force" if number else "no generation yet"
        self.facts_changed()

    def check_gate(self) -> None:
        """To be called now and then: tells once when executables are named and nothing tells them apart."""
        policy = self.enforcer.policy
        named = targets_of(policy) if policy is not None else ()
        missed, self._gate_missed = self._gate_missed, bool(named) and not gate_runs(self.folder.path)
        if self._gate_missed and missed and not self._gate_told:  # twice in a row: one that starts takes a moment
            names = ", ".join(t.workload for t in named[:5])
            self.tell(
                "state",
                f"no exec gate runs on this host, so no process belongs to {names}: "
                "`systemctl enable --now segctl-exec-gate.path`",
            )
        self._gate_told = self._gate_missed and missed

    # What the watchers tell

    def cgroups_changed(self, added: Mapping[str, int], removed: Mapping[str, int]) -> None:
        self._when_free("cgroups", lambda: self.enforcer.cgroups_changed(added, removed))
        self.facts_changed()

    def containers_changed(self, containers: tuple[ContainerFact, ...], bridges: tuple[str, ...]) -> None:
        self.containers = containers
        self._when_free("containers", lambda: self.enforcer.containers_changed(containers, bridges))
        self.facts_changed()

    def addresses_changed(self, addresses: frozenset[Address]) -> None:
        self._when_free("addresses", lambda: self._turn_kept(self.enforcer.addresses_changed(addresses)))
        self.facts_changed()

    def controllers_changed(self, controllers: tuple[Endpoint, ...]) -> None:
        self._when_free("controllers", lambda: self._turn_kept(self.enforcer.controllers_changed(controllers)))

    def changed_by(self, notice: TamperNotice) -> None:
        """Someone changed the ruleset of this network namespace."""
        if notice.tables and TABLE not in notice.tables:
            self._when_free("a change elsewhere", lambda: self.enforcer.unaffected(notice.generation))
            return
        self._culprit = notice
        self.check_hold()
        self.heal()

    def look(self) -> None:
        """Heals what someone did since, even where its notice has not come yet."""
        self.read_notices()
        self.heal()

    def heal(self) -> None:
        """Compares and mends, at once or as soon as the throttle lets."""
        if self.held or self._healing is not None:
            return
        delay = self._throttle.wait(time.monotonic())
        if delay:
            self._healing = asyncio.get_running_loop().call_later(delay, self._heal_later)
        else:
            self._when_free("tampering", self._heal_now)

    def _heal_later(self) -> None:
        self._healing = None
        self.heal()

    def _heal_now(self) -> None:
        if self.held:
            return
        started, turn = time.perf_counter(), self.enforcer.decisions.turn
        found = self.enforcer.heal()
        self.compared_at = time.monotonic()
        self._turn_kept(self.enforcer.decisions.turn != turn)
        if self._unproven:
            self._unproven = False
            self.in_force_changed()  # what was refused meanwhile is taken now
        culprit, self._culprit = self._culprit, None
        if not found:
            return
        self.tally.heals += 1
        took = (time.perf_counter() - started) * 1e3
        who = f"{culprit.process} (pid {culprit.pid})" if culprit is not None and culprit.pid else "an unknown process"
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        self.tell("tamper", f"{who} changed the rules: {'; '.join(found[:5])}{more}. Healed in {took:.1f} ms", culprit)
        if self._throttle.healed(time.monotonic()):
            text = f"{who} keeps changing the rules: they are healed at most 10 times a second. Stop that program"
            self.tell("tamper", text, culprit)

    def check_hold(self) -> None:
        """Follows the operator's release and its end."""
        keep_release(self.folder)
        held = self.folder.held
        if held and not self.held:
            self.held, self.status = held, "released"
            self.generations.released(held)
            self._when_free("release", self.enforcer.destroy)
            self.in_force_changed()
            self.tell("state", f"{held}: nothing is enforced on this host now")
        elif held != self.held and held:
            self.held = held
            self.generations.released(held)
            self.in_force_changed()
            self.tell("state", held)
        elif held and self.enforcer.wanted is not None and not self._working:
            self._when_free("release", self.enforcer.destroy)  # the kernel refused it before
        elif self.held and not held:
            self._when_free("the end of the release", self._end_release)

    def _end_release(self) -> None:
        """Where the kernel refuses, the host is still open: it is said so, and `check_hold` tries again."""
        if not self.held:
            return  # done by one that waited, too
        held, self.held = self.held, ""
        try:
            self.start()
        except KernelError:
            self.held, self.status = held, "released"
            self.generations.released(held)
            raise
        self.in_force_changed()
        self.tell("state", f"the release of this host has ended: {self.status}")

    def tell(self, kind: str, message: str, culprit: TamperNotice | None = None) -> None:
        """Into the journal and to the controller."""
        told = about(
            kind_of(kind),
            culprit=culprit.process if culprit is not None and culprit.pid else None,
            culprit_pid=culprit.pid if culprit is not None and culprit.pid else None,
        )
        log.warning("%s: %s", kind, message, extra=told)
        self.reports.add_event(event_message(kind, message, time.time_ns() // 1000, culprit))
        self.report_waiting()

    def _turn_kept(self, changed: bool) -> None:
        if changed:
            self.generations.turn_kept()

    def _when_free(self, what: str, action: Callable[[], object]) -> None:
        def guarded() -> None:
            try:
                action()
            except KernelError as error:
                problem = f"{what}: {error}"
                if problem != self._problem:  # it is tried again and again, and told once
                    self.tell("kernel", problem)
                elif not self._unproven and not self.held:
                    # What was proved once holds no more. The controller asks for it again, and hears why not.
                    self._unproven = True
                    self.in_force_changed()
                self._problem = problem
                if self._healing is None:
                    loop = asyncio.get_running_loop()
                    self._healing = loop.call_later(_HEAL_AGAIN_SECONDS, self._heal_later)
            else:
                self._problem = ""

        if self._working:
            self._deferred.append(guarded)
        else:
            guarded()
