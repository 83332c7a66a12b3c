"""The agent's line to its controller: connect, speak, and come back whenever it breaks.

One task reads, one writes (a gRPC stream takes one writer), one applies: the newest policy wins while an older one is
still being applied. Reports go over a stream of their own (report_stream.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, cast

import grpc
from segctl import __version__
from segctl.errors import ControllerUnreachableError, KernelError, StateError
from segctl.logs import Event, about
from segctl.model.hostpolicy import HostPolicy
from segctl.proto.v1 import agent_pb2 as pb
from segctl.proto.v1 import agent_pb2_grpc as rpc

from segctl_agent.channel import Backoff, explained, open_channel
from segctl_agent.conversation import (
    PROTOCOL,
    Activation,
    Confirmation,
    Conversation,
    Greeted,
    ImpactAsked,
    InForce,
    NewPolicy,
    Order,
    ProtocolError,
    RefusedPolicy,
    Unfit,
    Withdrawal,
    ack,
    changed,
    nack,
    outlived,
    staged,
    trial_ended,
)
from segctl_agent.credentials import Identity
from segctl_agent.endings import RenewedError, SilentControllerError, reason_of, said_nothing
from segctl_agent.report_stream import send_reports
from segctl_agent.reports import ReportQueue
from segctl_agent.together import until_one_ends
from segctl_agent.turns import Turns

log = logging.getLogger(__name__)

FACTS_DEBOUNCE_SECONDS = 0.1
FACTS_SHARE = 0.05
"""Of the loop's time, at most, for putting facts together."""
GREETING_SECONDS, GREETING_ELSEWHERE_SECONDS = 10.0, 4.0
"""For which an agent waits for Welcome; the second, where another controller may answer sooner."""
SILENT_HEARTBEATS = 3
WAITING_IMPACTS = 2
"""Questions about drafts that wait, each up to 64 MiB."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A policy is in force: read back from the kernel."""

    kernel_digest: str
    apply_us: int
    notes: tuple[str, ...] = ()
    stored: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial that the agent took back by itself."""

    generation: int
    digest: str
    reason: str


class Host(Protocol):
    """What the session needs of the agent. The changes of what is in force raise KernelError or StateError: what was in
    force stays in force. All but them and `impact` return at once."""

    def in_force(self) -> InForce: ...

    def holding(self) -> HostPolicy | None:
        """The host policy in force."""
        ...

    def ended(self) -> Ended | None:
        """The trial that was taken back, unless something was put in force since."""
        ...

    async def settled(self) -> None:
        """Returns when no change is under way, so that a greeting tells what will be so."""
        ...

    def heard(self) -> None:
        """The controller said something."""
        ...

    def facts(self) -> pb.Facts: ...

    async def put(self, new: NewPolicy) -> Proof: ...

    async def stage(self, new: NewPolicy) -> None: ...

    async def activate(self, asked: Activation) -> Proof: ...

    async def confirm(self, asked: Confirmation) -> Proof: ...

    async def take_back(self, asked: Withdrawal) -> None: ...

    def probe(self, request: pb.ProbeRequest) -> pb.ProbeReply: ...

    async def impact(self, asked: ImpactAsked) -> pb.ImpactReply: ...


class Session:
    """Keeps a session with one of the identity's controllers, for ever. Use `run` as a task."""

    def __init__(
        self,
        identity: Identity,
        host: Host,
        reports: ReportQueue,
        boot_id: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        backoff: Backoff | None = None,
    ) -> None:
        self.identity, self.host, self.reports = identity, host, reports
        self.connected_to = ""
        self.problem = ""
        self._greeted_at = 0.0
        self._boot_id, self._now, self._backoff = boot_id, now, backoff or Backoff()
        self._outbox: deque[pb.AgentMessage] = deque()
        self._wake = asyncio.Event()
        self._facts_due = False
        self._facts_from = 0.0
        self._facts_timer: asyncio.TimerHandle | None = None
        self._told_facts: pb.Facts | None = None
        self._orders: list[Order] = []
        self._offered = asyncio.Event()
        self._asked: asyncio.Queue[ImpactAsked] = asyncio.Queue(WAITING_IMPACTS)
        self.reports_waiting = asyncio.Event()
        self.beside: list[Callable[[rpc.AgentAsyncStub], Coroutine[Any, Any, None]]] = []
        """What else runs as long as a session does, over its connection."""
        self._renewed = asyncio.Event()
        self.renewal_wanted: Callable[[int], object] = lambda _: None
        """Called with the seconds within which the controller wants this host to renew its certificate."""

    def facts_changed(self) -> None:
        """The controller gets the facts anew if they differ, a moment later and once for many changes."""
        self._facts_due = True
        self._wake.set()

    def use(self, identity: Identity) -> None:
        """From the next connection on, which is made at once."""
        self.identity = identity
        self._renewed.set()

    def in_force_changed(self) -> None:
        """A release began or ended: the controller hears it at once, and sends its policy again after the end."""
        self._send(changed(self.host.in_force()))

    def trial_ended(self, ended: Ended) -> None:
        """Without a session, the next greeting tells it."""
        self._send(trial_ended(ended.generation, ended.digest, ended.reason, self.host.in_force()))

    async def run(self) -> None:
        self._warn_of_expiry()
        turns, now = Turns(), asyncio.get_running_loop().time
        while True:
            controllers = self.identity.controllers
            address = turns.next(controllers, now())
            others = turns.others(address, controllers, now())
            try:
                await self._connect(address, GREETING_ELSEWHERE_SECONDS if others else GREETING_SECONDS)
            except RenewedError:
                continue
            except (grpc.aio.AioRpcError, ProtocolError, ControllerUnreachableError) as error:
                self._report_problem(address, error)
                turns.left(address, now(), silent=said_nothing(error))
            finally:
                if self.connected_to:
                    self._backoff.lasted(now() - self._greeted_at)
                self.connected_to = ""
            elsewhere = turns.next(controllers, now()) != address
            await asyncio.sleep(self._backoff.next(elsewhere=elsewhere))

    async def _connect(self, address: str, patience: float) -> None:
        """One session from hello to its end, which is always an exception. `patience`: seconds until Welcome."""
        self._outbox.clear()
        self._orders, self._facts_due = [], False
        self._renewed.clear()
        self._asked = asyncio.Queue(WAITING_IMPACTS)
        async with open_channel(self.identity, address) as channel:
            stub = cast("rpc.AgentAsyncStub", rpc.AgentStub(channel))
            call = stub.Session()
            await self.host.settled()
            in_force = self.host.in_force()
            self._told_facts = self._facts()
            hello = pb.Hello(
                agent_version=__version__,
                protocol=PROTOCOL,
                boot_id=self._boot_id,
                generation=in_force.generation,
                digest=in_force.digest,
                facts=self._told_facts,
                released=in_force.released,
                confirmed=in_force.confirmed,
            )
            if (ended := self.host.ended()) is not None:
                hello.trial_ended.CopyFrom(
                    trial_ended(ended.generation, ended.digest, ended.reason, in_force).trial_ended
                )
            conversation = Conversation(self.identity.host)
            try:
                async with asyncio.timeout(patience):
                    await call.write(pb.AgentMessage(hello=hello))
                    first = await self._read(call)
                    greeting = conversation.receive(first, in_force)
                if not isinstance(greeting, Greeted):
                    raise ProtocolError("the controller did not greet")
                self._greeted(address)
                failures = await until_one_ends(
                    self._listen(call, conversation, greeting.heartbeat_seconds * SILENT_HEARTBEATS),
                    self._speak(call, greeting.heartbeat_seconds),
                    self._apply(),
                    self._answer_impacts(),
                    send_reports(stub, self.reports, self.reports_waiting),
                    self._until_renewed(),
                    *(work(stub) for work in self.beside),
                )
                raise reason_of(failures)
            except TimeoutError as error:
                raise SilentControllerError(f"it did not answer within {patience:g} s") from error
            except asyncio.InvalidStateError as error:
                # A write on a call that has ended says no more than that; the status of the call does.
                raise ControllerUnreachableError(await call.details() or "the session ended") from error
            finally:
                call.cancel()

    async def _until_renewed(self) -> None:
        await self._renewed.wait()
        raise RenewedError

    async def _read(
        self, call: grpc.aio.StreamStreamCall[pb.AgentMessage, pb.ControllerMessage]
    ) -> pb.ControllerMessage:
        message = await call.read()
        if isinstance(message, pb.ControllerMessage):
            return message
        raise ControllerUnreachableError(
            f"the controller ended the session: {await call.details() or 'no reason given'}"
        )

    async def _listen(
        self,
        call: grpc.aio.StreamStreamCall[pb.AgentMessage, pb.ControllerMessage],
        conversation: Conversation,
        silence_seconds: float,
    ) -> None:
        while True:
            try:
                async with asyncio.timeout(silence_seconds):
                    message = await self._read(call)
            except TimeoutError as error:
                raise SilentControllerError(f"nothing heard for {silence_seconds:g} s") from error
            self.host.heard()
            intention = conversation.receive(message, self.host.in_force(), self.host.holding())
            if isinstance(intention, Order):
                self._orders = [*outlived(self._orders, intention), intention]
                self._offered.set()
            elif isinstance(intention, RefusedPolicy):
                told = about(Event.POLICY_REFUSED, generation=intention.generation, digest=intention.digest)
                log.error("refused generation %d: %s", intention.generation, intention.reason, extra=told)
                self._refuse(intention.generation, intention.digest, intention.reason, stage=intention.stage)
                self._end_trial_for(intention)
            elif isinstance(intention, Unfit):
                log.warning("asks for the whole policy: %s", intention.reason)
                self._send(pb.AgentMessage(resend=pb.Resend(digest=intention.digest)))
            elif isinstance(intention, pb.RenewSoon):
                self.renewal_wanted(intention.within_seconds)
            elif isinstance(intention, pb.ProbeRequest):
                self._send(pb.AgentMessage(probe=self.host.probe(intention)))
            elif isinstance(intention, pb.ImpactReply):
                self._send(pb.AgentMessage(impact=intention))
            elif isinstance(intention, ImpactAsked):
                self._ask_impact(intention)

    def _end_trial_for(self, refused: RefusedPolicy) -> None:
        """Who is sent a policy to hold is on trial no more, even where that one is refused: so do those whose
        controller knows only generations before the one on their disk."""
        now = self.host.in_force()
        if refused.stage or now.generation == now.confirmed:
            return
        self._orders.append(Withdrawal(now.generation, now.digest, f"the controller sent another: {refused.reason}"))
        self._offered.set()

    def _ask_impact(self, asked: ImpactAsked) -> None:
        try:
            self._asked.put_nowait(asked)
        except asyncio.QueueFull:
            error = f"{WAITING_IMPACTS} drafts wait to be looked at already: ask again"
            self._send(pb.AgentMessage(impact=pb.ImpactReply(id=asked.id, error=error)))

    async def _answer_impacts(self) -> None:
        while True:
            self._send(pb.AgentMessage(impact=await self.host.impact(await self._asked.get())))

    async def _apply(self) -> None:
        while True:
            await self._offered.wait()
            self._offered.clear()
            while self._orders:
                await self._follow(self._orders.pop(0))

    async def _follow(self, order: Order) -> None:
        generation = order.policy.generation if isinstance(order, NewPolicy) else order.generation
        stage = isinstance(order, NewPolicy) and order.stage
        try:
            if isinstance(order, Withdrawal):
                await self.host.take_back(order)
                return
            if isinstance(order, Activation):
                proof = await self.host.activate(order)
            elif isinstance(order, Confirmation):
                proof = await self.host.confirm(order)
            elif stage:
                await self.host.stage(order)
                self._send(staged(generation, order.digest))
                return
            else:
                proof = await self.host.put(order)
        except (KernelError, StateError) as error:
            told = about(Event.POLICY_REFUSED, generation=generation, digest=order.digest)
            log.error("generation %d is not in force, the one before stays: %s", generation, error, extra=told)
            self._refuse(generation, order.digest, str(error), stage=stage)
            return
        self._send(ack(generation, order.digest, proof.kernel_digest, proof.apply_us, proof.notes, stored=proof.stored))

    def _refuse(self, generation: int, digest: str, reason: str, *, stage: bool) -> None:
        if stage:
            self._send(staged(generation, digest, (reason,)))
        else:
            self._send(nack(generation, digest, (reason,), self.host.in_force()))

    async def _speak(
        self, call: grpc.aio.StreamStreamCall[pb.AgentMessage, pb.ControllerMessage], heartbeat_seconds: float
    ) -> None:
        self._wake.set()
        while True:
            try:
                async with asyncio.timeout(heartbeat_seconds):
                    await self._wake.wait()
            except TimeoutError:
                self._send(pb.AgentMessage(heartbeat=pb.Heartbeat()))
            self._wake.clear()
            while self._outbox:
                await call.write(self._outbox.popleft())
            if self._facts_due and self._facts_may_go():
                await asyncio.sleep(FACTS_DEBOUNCE_SECONDS)
                self._facts_due = False
                facts = self._facts()
                if facts != self._told_facts:
                    await call.write(pb.AgentMessage(facts=facts))
                    self._told_facts = facts
                self._wake.set()  # an answer may have come meanwhile

    def _facts(self) -> pb.Facts:
        """Any user may make cgroups without end: what they cost to look at must not keep the loop from all else."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        facts = self.host.facts()
        self._facts_from = loop.time() + (loop.time() - began) / FACTS_SHARE
        return facts

    def _facts_may_go(self) -> bool:
        """When not, `_speak` is woken as soon as they may."""
        loop = asyncio.get_running_loop()
        if self._facts_from - loop.time() <= FACTS_DEBOUNCE_SECONDS:
            return True
        if self._facts_timer is not None:
            self._facts_timer.cancel()
        self._facts_timer = loop.call_at(self._facts_from, self._wake.set)
        return False

    def _send(self, message: pb.AgentMessage) -> None:
        self._outbox.append(message)
        self._wake.set()

    def _greeted(self, address: str) -> None:
        self.connected_to, self.problem = address, ""
        self._greeted_at = asyncio.get_running_loop().time()
        log.info("session with the controller %s", address, extra=about(Event.SESSION, controller=address))

    def _report_problem(self, address: str, error: Exception) -> None:
        details = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
        words = explained(details or "")
        problem = f"no session with the controller {address}: {words}"
        if words == details:  # else no other certificate of this host would help
            problem = self.identity.complaint(self._now()) or problem
        if problem != self.problem:  # once, not at every attempt
            told = about(Event.SESSION_ENDED, controller=address)
            log.warning("%s; the rules in force stay in force", problem, extra=told)
        self.problem = problem

    def _warn_of_expiry(self) -> None:
        if self.identity.late(self._now()):
            text = "this host's certificate, which ends %s UTC, should have been renewed by now"
            log.warning(text, f"{self.identity.valid_until:%Y-%m-%d %H:%M}", extra=about(Event.CERTIFICATE))
