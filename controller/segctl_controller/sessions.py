"""Agent.Session: policy down, proof up, on one stream a host."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Coroutine

import grpc
from segctl.errors import SegctlError, WireError
from segctl.logs import Event, about
from segctl.proto.v1 import agent_pb2
from segctl.wire import PROTOCOL_VERSION

from segctl_controller.clock import Clock
from segctl_controller.contest import Origin
from segctl_controller.errors import LimitError, PreconditionError, ReplacedError, SilentPeerError
from segctl_controller.facts import Claims, read_claims
from segctl_controller.messages import delta_messages, draft_messages, policy_messages
from segctl_controller.pace import Paces
from segctl_controller.questions import Questions
from segctl_controller.registry import Registry
from segctl_controller.rpc import Context, Refusing, caller_of, source_address
from segctl_controller.store.records import ProofRecord
from segctl_controller.trial import Desired, Kind, Order

HELLO_SECONDS = 10.0
SILENT_INTERVALS = 3
LARGEST_MESSAGE = 4 * 1024 * 1024
MOST_PROBES = 64
MOST_IMPACTS = 4
REMEMBERED = 16
LONGEST_REASON = 500
RATE, BURST = 1.0, 60.0
"""Facts and refusals a second and host: each may make work for the whole fleet, or an entry in the audit log."""
PROOF_RATE, PROOF_BURST = 10.0, 200.0
"""Proofs a second and host: each is stored."""
log = logging.getLogger(__name__)


class Session:
    """One stream. Only the newest orders wait, at most one of a kind: a slow agent gets the latest, never a queue. What
    the agent was told already is not told again."""

    def __init__(self, host: str, origin: Origin, heartbeat: float, previews: bool = False, holds: str = "") -> None:
        """`holds`: the digest of the host policy that is in force there, as the agent says."""
        self._host = host
        self._previews = previews
        self._origin = origin
        self._heartbeat = heartbeat
        self._heard_at = asyncio.get_running_loop().time()
        self._orders: tuple[Order, ...] = ()
        self._hold: Order | None = None
        self._held = holds  # digests of what the agent was told to hold, keep ready, try
        self._staged = self._tried = ""
        self._base: Desired | None = None  # what it was told to hold, which changes of members build upon
        self._proves = False  # it was told on this stream
        self._withdrawn = ""
        self._probes: deque[agent_pb2.ProbeRequest] = deque()
        self._drafts: dict[int, list[bytes]] = {}
        self._renew: agent_pb2.RenewSoon | None = None
        self._asked_to_renew = False
        self.probes = Questions[agent_pb2.ProbeReply](host, MOST_PROBES)
        self.impacts = Questions[agent_pb2.ImpactReply](host, MOST_IMPACTS)
        self._wake = asyncio.Event()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sent: OrderedDict[str, int] = OrderedDict()
        self._claims: Claims | None = None
        self._claimed = asyncio.Event()

    @property
    def host(self) -> str:
        return self._host

    @property
    def origin(self) -> Origin:
        return self._origin

    @property
    def lives(self) -> bool:
        """Its agent was heard from within the heartbeat interval."""
        return asyncio.get_running_loop().time() - self._heard_at <= self._heartbeat

    def heard(self) -> None:
        self._heard_at = asyncio.get_running_loop().time()

    def offer(self, orders: tuple[Order, ...], withdrawn: str = "") -> None:
        """The newest orders. One to hold something is followed even when others come before it was sent: it may confirm
        what is on trial. `withdrawn`: why what is on trial is to be taken back, where there is nothing to hold."""
        hold = next((o for o in orders if o.kind is Kind.HOLD), None)
        if hold is not None:
            self._hold = hold
        elif withdrawn:
            self._withdrawn = withdrawn
        self._orders = tuple(o for o in orders if o.kind is not Kind.HOLD)
        self._wake.set()

    def withdraw(self, generation: int, digest: str, reason: str) -> None:
        """The agent has something on trial since another stream, and is to take it back."""
        self._sent[digest] = generation
        self._tried, self._withdrawn = digest, reason
        self._wake.set()

    def repeat(self) -> None:
        """What the agent was told holds no more: the next orders are told whatever they are."""
        self._held = self._staged = self._tried = ""
        self._base = None

    def renew_soon(self, within: int) -> None:
        """Once a session, the agent is asked for a renewal within so many seconds."""
        if not self._asked_to_renew:
            self._asked_to_renew, self._renew = True, agent_pb2.RenewSoon(within_seconds=within)
            self._wake.set()

    def end(self, reason: SegctlError) -> None:
        if not self._ended.done():
            self._ended.set_exception(reason)

    async def probe(self, request: agent_pb2.ProbeRequest) -> agent_pb2.ProbeReply:
        """Ask the agent; the caller sets the timeout. Raises LimitError when too many questions are open."""
        with self.probes.ask() as (number, reply):
            question = agent_pb2.ProbeRequest()
            question.CopyFrom(request)
            question.id = number
            self._probes.append(question)
            self._wake.set()
            return await reply

    @property
    def previews(self) -> bool:
        """Its agent can tell what a draft would cut: one whose marks name decisions. Others would not answer."""
        return self._previews

    async def impact(self, draft: bytes, limit: int) -> agent_pb2.ImpactReply:
        """Ask what the host policy `draft`, serialized, would cut; the caller sets the timeout. A draft that was not
        begun to be sent by then is not sent any more. Raises LimitError when too many questions are open."""
        with self.impacts.ask() as (number, reply):
            self._drafts[number] = draft_messages(number, draft, limit)
            self._wake.set()
            try:
                return await reply
            finally:
                self._drafts.pop(number, None)

    def put_claims(self, claims: Claims) -> None:
        """The newest facts take the place of those that still wait."""
        self._previews = bool(claims.mark_mask)
        self._claims = claims
        self._claimed.set()

    async def next_claims(self) -> Claims:
        while self._claims is None:
            self._claimed.clear()
            await self._claimed.wait()
        claims, self._claims = self._claims, None
        return claims

    def sent_generation(self, digest: str) -> int | None:
        """The generation of a policy that was sent on this stream, by its digest."""
        return self._sent.get(digest)

    async def next_messages(self, interval: float) -> list[bytes]:
        """What to send next: questions and the newest policy, or a heartbeat when `interval` seconds bring nothing."""
        try:
            async with asyncio.timeout(interval):
                await self._wake.wait()
        except TimeoutError:
            return [agent_pb2.ControllerMessage(heartbeat=agent_pb2.Heartbeat()).SerializeToString()]
        self._wake.clear()
        messages = []
        while self._probes:
            messages.append(agent_pb2.ControllerMessage(probe=self._probes.popleft()).SerializeToString())
        hold, self._hold = self._hold, None
        orders, self._orders = self._orders, ()
        for order in (*((hold,) if hold is not None else ()), *orders):
            messages.extend(self._ordered(order))
        if self._withdrawn:
            messages.extend(self._withdrawal())
        if self._renew is not None:
            messages.append(agent_pb2.ControllerMessage(renew=self._renew).SerializeToString())
            self._renew = None
        # Last: a policy does not wait for a question.
        while self._drafts:
            messages.extend(self._drafts.pop(next(iter(self._drafts))))
        return messages

    def _ordered(self, order: Order) -> list[bytes]:
        """The messages of one order."""
        desired = order.desired
        self._sent[desired.digest] = desired.generation
        self._sent.move_to_end(desired.digest)
        while len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)
        if order.kind is Kind.HOLD:
            return self._hold_messages(desired)
        if order.kind is Kind.TRY and desired.digest == self._tried:
            return []
        messages = policy_messages(desired.wire, stage=True) if desired.digest != self._staged else []
        self._staged = desired.digest
        if order.kind is Kind.TRY:
            # The agent keeps one ready, and that is gone when it is tried out.
            self._staged, self._tried, self._held, self._base = "", desired.digest, "", None
            activate = agent_pb2.Activate(
                generation=desired.generation,
                digest=desired.digest,
                silence_seconds=max(1, round(self._heartbeat * SILENT_INTERVALS)),
                accept_denials=order.accept_denials,
            )
            messages.append(agent_pb2.ControllerMessage(activate=activate).SerializeToString())
        return messages

    def _hold_messages(self, desired: Desired) -> list[bytes]:
        """A change of what it holds where that is possible; also to prove what it says that it holds."""
        if desired.digest == self._held and self._proves:
            return []
        tried, held, base = self._tried, self._held, self._base
        self._tried, self._held, self._base, self._proves = "", desired.digest, desired, True
        if tried == desired.digest:
            confirm = agent_pb2.Confirm(generation=desired.generation, digest=desired.digest)
            return [agent_pb2.ControllerMessage(confirm=confirm).SerializeToString()]
        return (delta_messages(base, held, desired) if held else None) or policy_messages(desired.wire)

    def _withdrawal(self) -> list[bytes]:
        reason, self._withdrawn = self._withdrawn, ""
        tried, self._tried, self._staged = self._tried, "", ""
        if not tried:
            return []
        back = agent_pb2.TakeBack(generation=self._sent.get(tried, 0), digest=tried, reason=reason[:LONGEST_REASON])
        return [agent_pb2.ControllerMessage(take_back=back).SerializeToString()]

    async def ended(self) -> None:
        await self._ended


class SessionService:
    """Serves the streams. `heartbeat` is in seconds; a peer silent for three of them is closed."""

    def __init__(self, fleet: str, registry: Registry, clock: Clock, heartbeat: float) -> None:
        self._fleet = fleet
        self._registry = registry
        self._clock = clock
        self._heartbeat = heartbeat
        self._paces = Paces(RATE, BURST)
        self._proofs = Paces(PROOF_RATE, PROOF_BURST)

    async def serve(self, context: Context) -> None:
        """The handler of Agent.Session; messages are written as bytes."""
        async with Refusing(context):
            caller = caller_of(context, self._fleet, "host")
            self._registry.verify(caller.name, caller.serial, caller.issued_us)
            hello = await self._hello(context)
            claims = read_claims(hello.facts)
            await asyncio.sleep(self._paces.delay(caller.name))
            origin = Origin(source_address(context), hello.boot_id, frozenset(claims.addresses))
            holds = hello.digest if hello.generation == hello.confirmed else ""
            session = Session(caller.name, origin, self._heartbeat, previews=bool(claims.mark_mask), holds=holds)
            welcome = agent_pb2.Welcome(
                protocol=PROTOCOL_VERSION, host=caller.name, heartbeat_seconds=max(1, round(self._heartbeat))
            )
            try:
                async with asyncio.timeout(HELLO_SECONDS):
                    await context.write(agent_pb2.ControllerMessage(welcome=welcome).SerializeToString())
            except TimeoutError as error:
                raise SilentPeerError(f"host {caller.name} does not read its stream") from error
            # Once more, and nothing is awaited from here to the registration: an agent decides how long Hello and
            # Welcome take, and may meanwhile have been removed, or another machine enrolled under its name.
            self._registry.verify(caller.name, caller.serial, caller.issued_us)
            newer = ReplacedError(f"a newer session of host {caller.name} took the place of this one")
            self._registry.register(session, hello, newer)
            told = about(Event.SESSION, host=caller.name, generation=hello.generation, peer=context.peer())
            log.info("session host=%s agent=%r", caller.name, hello.agent_version, extra=told)
            try:
                await self._registry.claim(session, claims)
                await self._run(session, context)
            finally:
                self._registry.unregister(session)
                log.info("session ended host=%s", caller.name, extra=about(Event.SESSION_ENDED, host=caller.name))

    async def _hello(self, context: Context) -> agent_pb2.Hello:
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                message = await context.read()
        except TimeoutError as error:
            raise SilentPeerError(f"no Hello within {HELLO_SECONDS:.0f} seconds of opening the stream") from error
        if not isinstance(message, agent_pb2.AgentMessage) or message.WhichOneof("kind") != "hello":
            raise WireError("the first message of a session must be Hello")
        _sized(message)
        hello = message.hello
        if hello.protocol != PROTOCOL_VERSION:
            raise PreconditionError(
                f"this agent speaks protocol {hello.protocol}, the controller {PROTOCOL_VERSION}; install the agent "
                "that belongs to the controller's version"
            )
        if max(len(hello.agent_version), len(hello.boot_id), len(hello.digest)) > 128:
            raise WireError("agent_version, boot_id or digest of Hello is longer than 128 characters")
        return hello

    async def _run(self, session: Session, context: Context) -> None:
        """Until the agent closes the stream, or one of the parts fails."""
        parts: tuple[Coroutine[None, None, None], ...] = (
            self._read(session, context),
            self._write(session, context),
            self._claim(session),
            session.ended(),
        )
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in parts]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()

    async def _claim(self, session: Session) -> None:
        while True:
            claims = await session.next_claims()
            await self._registry.claim(session, claims)
            await asyncio.sleep(self._paces.delay(session.host))

    async def _write(self, session: Session, context: Context) -> None:
        while True:
            for message in await session.next_messages(self._heartbeat):
                try:
                    async with asyncio.timeout(self._heartbeat * SILENT_INTERVALS):
                        await context.write(message)
                except TimeoutError as error:
                    raise SilentPeerError(f"host {session.host} does not read its stream") from error
                except grpc.aio.BaseError:  # the agent hung up while we wrote
                    return

    async def _read(self, session: Session, context: Context) -> None:
        silence = self._heartbeat * SILENT_INTERVALS
        while True:
            try:
                async with asyncio.timeout(silence):
                    message = await context.read()
            except TimeoutError as error:
                raise SilentPeerError(f"host {session.host} was silent for {silence:g} seconds") from error
            if message is grpc.aio.EOF:
                return
            session.heard()
            _sized(message)
            await self._handle(session, message)

    async def _handle(self, session: Session, message: agent_pb2.AgentMessage) -> None:
        kind = message.WhichOneof("kind")
        if kind == "facts":
            session.put_claims(read_claims(message.facts))
        elif kind == "ack":
            await self._ack(session, message.ack)
        elif kind == "nack":
            generation = session.sent_generation(message.nack.digest)
            if generation is not None:
                await asyncio.sleep(self._paces.delay(session.host))
                await self._registry.refused(session, generation, message.nack.digest, message.nack.errors)
        elif kind == "staged":
            await self._staged(session, message.staged)
        elif kind == "trial_ended":
            await asyncio.sleep(self._paces.delay(session.host))
            self._registry.took_back(session, message.trial_ended)
        elif kind == "in_force":
            await asyncio.sleep(self._paces.delay(session.host))
            self._registry.in_force(session, message.in_force.released)
        elif kind == "resend":
            await asyncio.sleep(self._paces.delay(session.host))
            log.warning("asks for a whole policy host=%s digest=%s", session.host, message.resend.digest[:12])
            self._registry.resend(session)
        elif kind == "probe":
            session.probes.answer(message.probe.id, message.probe)
        elif kind == "impact":
            session.impacts.answer(message.impact.id, message.impact)
        elif kind != "heartbeat":
            raise WireError(f"a session takes no {kind or 'empty message'} here")

    async def _staged(self, session: Session, staged: agent_pb2.Staged) -> None:
        if session.sent_generation(staged.digest) is None:
            return
        if staged.errors:
            await asyncio.sleep(self._paces.delay(session.host))
        self._registry.staged(session, staged.digest, staged.errors)

    async def _ack(self, session: Session, ack: agent_pb2.Ack) -> None:
        """Only what this stream sent can be proved: an old Ack says nothing about now."""
        generation = session.sent_generation(ack.digest)
        if generation is None:
            log.warning("ack for a policy that was not sent host=%s digest=%s", session.host, ack.digest[:12])
            return
        if len(ack.kernel_digest) > 128:
            raise WireError("the kernel digest is longer than 128 characters")
        await asyncio.sleep(self._proofs.delay(session.host))
        proof = ProofRecord(session.host, generation, ack.digest, ack.kernel_digest, self._clock.now_us())
        await self._registry.proved(session, proof, ack.notes, stored=ack.stored)


def _sized(message: agent_pb2.AgentMessage) -> None:
    if message.ByteSize() > LARGEST_MESSAGE:
        raise LimitError(f"a message of {message.ByteSize()} bytes; at most {LARGEST_MESSAGE} are taken")
