"""The connection of one simulated agent: its session, its reports, and how it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections.abc import Iterable
from tempfile import NamedTemporaryFile

from segctl.errors import WireError
from segctl.model.inventory import Address
from segctl.proto.v1 import agent_pb2 as pb
from segctl_agent.channel import STEADY_SECONDS, Backoff
from segctl_agent.credentials import Identity
from segctl_agent.session import GREETING_ELSEWHERE_SECONDS, GREETING_SECONDS
from segctl_agent.turns import Turns

from bench.fleet.agent import REPORT, SESSION, Conversation
from bench.fleet.http2 import Connection, Stream, client_context
from bench.fleet.identities import Member
from bench.fleet.reports import Batches
from bench.fleet.tally import Tally

SILENT_HEARTBEATS = 3
SILENCES = frozenset(("TIMEOUT", "KEEPALIVE", "SILENT"))
"""How connections to a controller end that says nothing."""
UNACKNOWLEDGED = 16
"""Batches that an agent sends ahead of what was acknowledged."""


class Link:
    """Connects with the backoff of a real agent, and goes through its controllers as one does. `steady`: see crowds."""

    def __init__(self, member: Member, tally: Tally, batches: Batches, verify: bool, steady: bool) -> None:
        self.host = member.identity.host
        self.reported = self.stored = 0  # sequences: the last one that was sent, and that was acknowledged
        self.conversation = Conversation(member.addresses, self._acked, verify)
        self._identity, self._tally, self._batches, self._steady = member.identity, tally, batches, steady
        self._context = _tls(member.identity)
        self._connection: Connection | None = None
        self._session: Stream | None = None
        self._greeted = self._heard_at = self._due = 0.0
        self._ended: asyncio.Future[str] | None = None

    @property
    def epoch(self) -> str:
        return self._batches.epoch

    async def run(self, turns: asyncio.Semaphore) -> None:
        """For ever. `turns` bounds how many agents of this process shake hands at a time."""
        backoff, order = Backoff(), Turns()
        controllers, loop = self._identity.controllers, asyncio.get_running_loop()
        self._due = loop.time() + self._batches.load.seconds * (int(self.epoch[-2:], 16) / 256)
        while True:
            address = order.next(controllers, loop.time())
            others = order.others(address, controllers, loop.time())
            patience = GREETING_ELSEWHERE_SECONDS if others else GREETING_SECONDS
            try:
                ended = await self._connected(address, turns, patience)
            except TimeoutError:
                ended = "TIMEOUT"
            except OSError as error:
                ended = type(error).__name__
            finally:
                self._hung_up()
            self._tally.failed(ended)
            order.left(address, loop.time(), silent=ended in SILENCES)
            if self._greeted:
                backoff.lasted(STEADY_SECONDS if self._steady else loop.time() - self._greeted)
                self._greeted = 0.0
            elsewhere = order.next(controllers, loop.time()) != address
            await asyncio.sleep(backoff.next(elsewhere=elsewhere))

    async def _connected(self, address: str, turns: asyncio.Semaphore, patience: float) -> str:
        """One session until it ends; the status with which it did. `patience`: seconds until Welcome."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[str] = loop.create_future()
        greeted: asyncio.Future[None] = loop.create_future()
        self._ended = ended

        def take(data: bytes) -> None:
            self._take(data)
            if not greeted.done():
                greeted.set_result(None)

        async with turns, asyncio.timeout(patience):
            connection = self._connection = await Connection.open(address, self._context)
            session = self._session = connection.call(SESSION, take, self._end)
            session.send(self.conversation.hello())
            await asyncio.wait((greeted, ended), return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            return ended.result()
        self._greeted = loop.time()
        self._tally.joined()
        reporting = asyncio.create_task(self._report(connection)) if self._batches.load else None
        try:
            return await ended
        finally:
            if reporting is not None:
                reporting.cancel()
                await asyncio.gather(reporting, return_exceptions=True)

    def _hung_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._session = None
        if self._greeted:
            self._tally.left()

    def _take(self, data: bytes) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        self._tally.took(data)
        connection, session = self._connection, self._session
        if connection is None or session is None:
            return
        try:
            for reply in self.conversation.answer(data):
                session.send(reply)
        except WireError as error:
            print(f"{self.host}: {error}", file=sys.stderr)
            connection.close("REFUSED_BY_AGENT")

    def _end(self, status: str) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(status)

    def _acked(self, stored: bool) -> None:
        self._tally.acked(self.host, stored)

    def claim(self, more: Iterable[Address]) -> None:
        """Tell the controller of `more` addresses beside its own."""
        if self._session is not None and self._greeted:
            self._session.send(self.conversation.facts(more))

    def hang_up(self) -> None:
        """End the connection, as a network that breaks does; the agent comes back by itself."""
        if self._connection is not None:
            self._connection.close()

    def look(self) -> None:
        """To be called now and then: is the controller still there? A frozen one answers no ping and says nothing."""
        if self._connection is None or not self._greeted:
            return
        self._connection.keepalive()
        patience = SILENT_HEARTBEATS * (self.conversation.heartbeat_seconds or GREETING_SECONDS)
        if asyncio.get_running_loop().time() - self._heard_at > patience:
            self._connection.close("SILENT")

    # Reports

    async def _report(self, connection: Connection) -> None:
        """Over a stream of their own, opened anew whenever it ends; what was not acknowledged goes again. A batch is
        due every so many seconds, whatever becomes of connections: a fleet that moves goes on to report."""
        seconds, loop = self._batches.load.seconds, asyncio.get_running_loop()
        while True:
            over = asyncio.Event()
            stream = connection.call(REPORT, self._acknowledged, lambda _status, over=over: over.set())  # type: ignore[misc]
            sent = self.stored
            while not over.is_set():
                new, full = sent == self.reported, sent - self.stored >= UNACKNOWLEDGED
                wait = 0.1 if full else self._due - loop.time() if new else 0.0
                if wait > 0:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait):
                            await over.wait()
                    continue
                if new:
                    self._due = loop.time() + seconds
                sent += 1
                self.reported = max(self.reported, sent)
                stream.send(self._batches.batch(sent))
            await asyncio.sleep(1)

    def _acknowledged(self, data: bytes) -> None:
        stored = pb.ReportAck.FromString(data).sequence
        self._tally.reports += stored - self.stored
        self.stored = stored


def _tls(identity: Identity) -> ssl.SSLContext:
    """Made once, for all connections of the agent. Python reads keys from files alone."""
    with NamedTemporaryFile(prefix="segctl-fleet-") as file:
        file.write(identity.certificate + identity.key)
        file.flush()
        return client_context(identity.ca, file.name)
