"""The connection of one simulated agent: its session, its reports, and how it comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import TypeAlias

import grpc
from segctl.model.inventory import Address
from segctl.proto.v1 import agent_pb2 as pb
from segctl_agent.channel import STEADY_SECONDS, Backoff, open_channel

from bench.fleet.agent import REPORT, SESSION, Conversation
from bench.fleet.identities import Member
from bench.fleet.reports import Batches
from bench.fleet.tally import Tally

GREETING_SECONDS = 10.0
SILENT_HEARTBEATS = 3
Call: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"
UNACKNOWLEDGED = 16
"""Batches that an agent sends ahead of what was acknowledged."""


class EndedError(Exception):
    """A stream is over; says the name of its gRPC status, or HUNG_UP when this side ended it."""


class Link:
    """Connects with the options and the backoff of a real agent, and goes through its controllers as one does."""

    def __init__(self, member: Member, tally: Tally, batches: Batches, verify: bool, steady: bool) -> None:
        self.host = member.identity.host
        self.connected = False
        self._heard_at = 0.0
        self.reported = self.stored = 0  # sequences: the last one that was sent, and that was acknowledged
        self._identity, self._tally, self._batches, self._steady = member.identity, tally, batches, steady
        self.conversation = Conversation(member.addresses, self._acked, verify)
        self._call: Call | None = None
        self._writing = asyncio.Lock()

    @property
    def epoch(self) -> str:
        return self._batches.epoch

    async def run(self, turns: asyncio.Semaphore) -> None:
        """For ever. `turns` bounds how many agents of this process shake hands at a time."""
        backoff, turn = Backoff(), 0
        controllers = self._identity.controllers
        while True:
            greeted_at = 0.0
            try:
                async with turns:
                    channel, call = await self._greet(controllers[turn % len(controllers)])
                greeted_at = asyncio.get_running_loop().time()
                async with channel:
                    await self._speak(channel, call)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError, EndedError) as error:
                self._tally.failed(_code(error))
            finally:
                if self.connected:
                    self.connected = False
                    self._tally.left()
            if greeted_at:
                lasted = asyncio.get_running_loop().time() - greeted_at
                backoff.lasted(STEADY_SECONDS if self._steady else lasted)
            turn += 1
            await asyncio.sleep(backoff.next())

    async def _greet(self, address: str) -> tuple[grpc.aio.Channel, Call]:
        channel = open_channel(self._identity, address)
        try:
            call: Call = channel.stream_stream(SESSION)()
            async with asyncio.timeout(GREETING_SECONDS):
                await call.write(self.conversation.hello())
                self._take(await _read(call))
        except BaseException:
            await channel.close()
            raise
        self.connected = True
        self._tally.joined()
        return channel, call

    async def _speak(self, channel: grpc.aio.Channel, call: Call) -> None:
        """Until the session ends."""
        self._call = call
        reporting = asyncio.create_task(self._report(channel)) if self._batches.load else None
        try:
            while True:
                for reply in self._take(await _read(call)):
                    async with self._writing:
                        await call.write(reply)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise EndedError("HUNG_UP") from None  # only the call was cancelled, by `hang_up`
        finally:
            self._call = None
            call.cancel()
            if reporting is not None:
                reporting.cancel()
                await asyncio.gather(reporting, return_exceptions=True)

    def _take(self, data: bytes) -> tuple[bytes, ...]:
        self._heard_at = asyncio.get_running_loop().time()
        self._tally.took(data)
        return self.conversation.answer(data)

    def _acked(self, stored: bool) -> None:
        self._tally.acked(self.host, stored)

    async def claim(self, more: Iterable[Address]) -> None:
        """Tell the controller of `more` addresses beside its own."""
        if self._call is not None:
            async with self._writing:
                await self._call.write(self.conversation.facts(more))

    def hang_up(self) -> None:
        """End the session, as a network that breaks does; the agent comes back by itself."""
        if self._call is not None:
            self._call.cancel()

    def hang_up_if_silent(self) -> None:
        """A frozen controller sends no heartbeats."""
        patience = SILENT_HEARTBEATS * (self.conversation.heartbeat_seconds or GREETING_SECONDS)
        if self.connected and asyncio.get_running_loop().time() - self._heard_at > patience:
            self._tally.silences += 1
            self.hang_up()

    # Reports

    async def _report(self, channel: grpc.aio.Channel) -> None:
        """Over its own stream, opened anew whenever it breaks; what was not acknowledged goes again."""
        await asyncio.sleep(self._batches.load.seconds * (hash(self.host) % 100) / 100)
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, EndedError):
                await self._report_stream(channel.stream_stream(REPORT)())
            await asyncio.sleep(1)

    async def _report_stream(self, call: Call) -> None:
        sending = asyncio.create_task(self._send_reports(call))
        try:
            while True:
                stored = pb.ReportAck.FromString(await _read(call)).sequence
                self._tally.reports += stored - self.stored
                self.stored = stored
        finally:
            call.cancel()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send_reports(self, call: Call) -> None:
        sent = self.stored
        while True:
            due = sent == self.reported
            if due:
                await asyncio.sleep(self._batches.load.seconds)
            if sent - self.stored >= UNACKNOWLEDGED:
                await asyncio.sleep(0.1)
                continue
            sent += 1
            self.reported = max(self.reported, sent)
            await call.write(self._batches.batch(sent))


async def _read(call: Call) -> bytes:
    """The next message. Raises EndedError."""
    data = await call.read()
    if not isinstance(data, bytes):
        raise EndedError((await call.code()).name)
    return data


def _code(error: Exception) -> str:
    if isinstance(error, EndedError):
        return str(error)
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else type(error).__name__
