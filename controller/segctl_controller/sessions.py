"""Agent.Session: policy down, proof up, on one stream a host."""

from __future__ import annotations

import asyncio
import logging

import grpc
from segctl.errors import WireError
from segctl.logs import Event, about
from segctl.proto.v1 import agent_pb2
from segctl.wire import PROTOCOL_VERSION

from segctl_controller.clock import Clock
from segctl_controller.contest import Origin
from segctl_controller.errors import LimitError, PreconditionError, ReplacedError, SilentPeerError
from segctl_controller.facts import read_claims
from segctl_controller.pace import Paces
from segctl_controller.registry import Registry
from segctl_controller.rpc import Context, Refusing, caller_of, source_address
from segctl_controller.session import Session
from segctl_controller.slices import Slices
from segctl_controller.store.records import ProofRecord
from segctl_controller.watch import Watch

HELLO_SECONDS = 10.0
LARGEST_MESSAGE = 4 * 1024 * 1024
RATE, BURST = 1.0, 60.0
"""Facts and refusals a second and host: each may make work for the whole fleet, or an entry in the audit log."""
PROOF_RATE, PROOF_BURST = 10.0, 200.0
"""Proofs a second and host: each is stored."""
HEARTBEATS_A_SECOND = 500
"""Of a whole fleet in each direction: each costs the controller a tenth of a millisecond, for as long as it runs."""
log = logging.getLogger(__name__)


class SessionService:
    """Serves the streams. `heartbeat` is in seconds, and longer for hosts of a large fleet that have nothing on trial;
    a peer silent for three of them is closed. One that is gone or frozen fails the keepalive of gRPC, and sooner."""

    def __init__(self, fleet: str, registry: Registry, clock: Clock, heartbeat: float) -> None:
        self._fleet = fleet
        self._registry = registry
        self._clock = clock
        self._heartbeat = heartbeat
        self._paces = Paces(RATE, BURST)
        self._proofs = Paces(PROOF_RATE, PROOF_BURST)
        self._watch = Watch(heartbeat)
        self._slices = Slices()

    async def serve(self, context: Context) -> None:
        """The handler of Agent.Session; messages are written as bytes."""
        async with Refusing(context):
            session = await self._greeted(context)
            try:
                await self._claim_once(session)
                await self._run(session, context)
            finally:
                self._registry.unregister(session)
                log.info("session ended host=%s", session.host, extra=about(Event.SESSION_ENDED, host=session.host))

    async def _greeted(self, context: Context) -> Session:
        """From Hello to the registration. What was said is not kept as long as the session."""
        caller = caller_of(context, self._fleet, "host")
        self._registry.admit()
        self._registry.verify(caller.name, caller.serial, caller.issued_us)
        hello = await self._hello(context)
        claims = read_claims(hello.facts)
        await self._paces.wait(caller.name)
        await self._slices.take()
        origin = Origin(source_address(context), hello.boot_id, frozenset(claims.addresses))
        holds = hello.digest if hello.generation == hello.confirmed else ""
        calm = max(self._heartbeat, len(self._registry.fleet.hosts) / HEARTBEATS_A_SECOND)
        session = Session(caller.name, origin, self._heartbeat, previews=bool(claims.mark_mask), holds=holds, calm=calm)
        session.put_claims(claims)
        welcome = agent_pb2.Welcome(protocol=PROTOCOL_VERSION, host=caller.name, heartbeat_seconds=max(1, round(calm)))
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
        return session

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
        """Until the agent closes the stream, the session is ended, or a part fails. The task of the call reads."""
        with session.ended:
            self._watch.add(session)
            writing = asyncio.create_task(self._write(session, context))
            writing.add_done_callback(session.ended.ends_with)
            try:
                await self._read(session, context)
            finally:
                self._watch.remove(session)
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)

    async def _write(self, session: Session, context: Context) -> None:
        while True:
            for message in await session.next_messages():
                session.writes(True)
                try:
                    await context.write(message)
                except grpc.aio.BaseError:  # the agent hung up while we wrote
                    return
                session.writes(False)

    async def _read(self, session: Session, context: Context) -> None:
        judging: asyncio.Task[None] | None = None
        try:
            while (message := await context.read()) is not grpc.aio.EOF:
                session.heard(handling=True)
                await self._slices.take()
                _sized(message)
                if message.WhichOneof("kind") != "facts":
                    await self._handle(session, message)
                    session.heard()
                    continue
                session.put_claims(read_claims(message.facts))
                if judging is None or judging.done():
                    judging = asyncio.create_task(self._claim(session))
                    judging.add_done_callback(session.ended.fails_with)
                session.heard()
        finally:
            if judging is not None:
                judging.cancel()

    async def _claim(self, session: Session) -> None:
        """The newest facts, and those that come meanwhile."""
        while await self._claim_once(session):
            await self._paces.wait(session.host)

    async def _claim_once(self, session: Session) -> bool:
        claims = session.take_claims()
        if claims is not None:
            await self._registry.claim(session, claims)
        return claims is not None

    async def _handle(self, session: Session, message: agent_pb2.AgentMessage) -> None:
        kind = message.WhichOneof("kind")
        if kind == "ack":
            await self._ack(session, message.ack)
        elif kind == "nack":
            generation = session.sent_generation(message.nack.digest)
            if generation is not None:
                await self._paces.wait(session.host)
                await self._registry.refused(session, generation, message.nack.digest, message.nack.errors)
        elif kind == "staged":
            await self._staged(session, message.staged)
        elif kind == "trial_ended":
            await self._paces.wait(session.host)
            self._registry.took_back(session, message.trial_ended)
        elif kind == "in_force":
            await self._paces.wait(session.host)
            self._registry.in_force(session, message.in_force.released)
        elif kind == "resend":
            await self._paces.wait(session.host)
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
            await self._paces.wait(session.host)
        self._registry.staged(session, staged.digest, staged.errors)

    async def _ack(self, session: Session, ack: agent_pb2.Ack) -> None:
        """Only what this stream sent can be proved: an old Ack says nothing about now."""
        generation = session.sent_generation(ack.digest)
        if generation is None:
            log.warning("ack for a policy that was not sent host=%s digest=%s", session.host, ack.digest[:12])
            return
        if len(ack.kernel_digest) > 128:
            raise WireError("the kernel digest is longer than 128 characters")
        await self._proofs.wait(session.host)
        proof = ProofRecord(session.host, generation, ack.digest, ack.kernel_digest, self._clock.now_us())
        await self._registry.proved(session, proof, ack.notes, stored=ack.stored)


def _sized(message: agent_pb2.AgentMessage) -> None:
    if message.ByteSize() > LARGEST_MESSAGE:
        raise LimitError(f"a message of {message.ByteSize()} bytes; at most {LARGEST_MESSAGE} are taken")
