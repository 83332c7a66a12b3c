"""Questions to hosts that are connected to another controller: stored for that one, answered by it, and forgotten.

    asked here ─▶ table questions ─▶ notice ─▶ the one that has the host ─▶ its session
          ◀────── notice ◀───── answer ◀───────────────────────────────────────┘

All is over within the time that an agent of our own has. What is still stored then goes with the next turn, and what a
controller leaves behind with its row.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from itertools import count
from typing import TypeVar

from google.protobuf.message import DecodeError
from segctl.errors import SegctlError, StateError
from segctl.logs import Event, about
from segctl.proto.v1 import agent_pb2

from segctl_controller.errors import LimitError, PreconditionError
from segctl_controller.impact import NAMED_BY_HOST
from segctl_controller.reachable import Reachable
from segctl_controller.registry import Registry
from segctl_controller.replicas.presence import Presences
from segctl_controller.store.shared import AnswerRecord, QuestionRecord, SharedStore
from segctl_controller.store_thread import Gather, StoreThread

ASKING_SECONDS, AGENT_SECONDS = 2.8, 2.3
"""Of a question as a whole, and of the agent at the other controller: both within the 3 s of whoever asks here."""
MOST_OPEN, MOST_BYTES = 4096, 16 * 1024 * 1024
"""Questions of one controller at a time, and how large they are together."""
AT_ONCE, LARGE = 8, 100_000
"""Drafts of so many compressed bytes that are unpacked and asked about at a time."""
LONGEST_DRAFT = 64 * 1024 * 1024
"""Bytes of a host policy, unpacked."""
LONGEST_ERROR = 500
AGAIN_SECONDS = 0.5
PROBE, IMPACT = "probe", "impact"
M = TypeVar("M", agent_pb2.ProbeReply, agent_pb2.ImpactReply)
log = logging.getLogger(__name__)


class Relay:
    """On the event loop. `run` until it is cancelled."""

    def __init__(
        self, own: str, registry: Registry, shared: SharedStore, db: StoreThread, presences: Presences
    ) -> None:
        self._own, self._registry, self._shared, self._db, self._presences = own, registry, shared, db, presences
        self._numbers = count(1)
        self._open: dict[int, asyncio.Future[AnswerRecord]] = {}
        self._bytes = 0
        self._left: list[int] = []  # that nobody waits for any more
        self._seen = 0
        self._wake = asyncio.Event()
        self._answering: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._asks: Gather[QuestionRecord] = Gather(lambda asked: db.call(shared.ask, asked))
        self._answers: Gather[AnswerRecord] = Gather(lambda told: db.call(shared.answer, told))

    def reach(self, host: str) -> Reachable | None:
        """None unless another controller has the host."""
        place = self._presences.place(host)
        return Distant(self, host, *place) if place is not None else None

    def heard(self) -> None:
        """Somebody asked, or answered."""
        self._wake.set()

    async def ask(self, host: str, replica: str, where: str, kind: str, body: bytes) -> bytes:
        """The agent's answer, serialized. Raises SegctlError."""
        if len(self._open) >= MOST_OPEN or self._bytes + len(body) > MOST_BYTES:
            raise LimitError("too much is asked of other controllers already; try again in a moment")
        number = next(self._numbers)
        answer: asyncio.Future[AnswerRecord] = asyncio.get_running_loop().create_future()
        self._open[number] = answer
        self._bytes += len(body)
        try:
            async with asyncio.timeout(ASKING_SECONDS):
                await self._asks.add(QuestionRecord(self._own, number, replica, host, kind, body))
                told = await answer
        except TimeoutError as error:
            raise PreconditionError(f"the host is connected to {where}, which does not answer") from error
        finally:
            del self._open[number]
            self._bytes -= len(body)
            if not answer.done() or answer.cancelled():
                self._left.append(number)
                self._wake.set()
        if told.error:
            raise PreconditionError(told.error)
        return told.answer

    async def run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                try:
                    await self._turn()
                except StateError as error:
                    text = "questions of other controllers, and their answers, come later: %s"
                    log.error(text, error, extra=about(Event.STORE))
                    await asyncio.sleep(AGAIN_SECONDS)
                    self._wake.set()
        finally:
            for task in self._answering:
                task.cancel()

    async def _turn(self) -> None:
        if self._left:
            left, self._left = self._left, []
            await self._db.call(self._shared.withdraw, self._own, left)
        for question in await self._db.read(self._shared.questions, self._own, self._seen):
            self._seen = question.id
            task = asyncio.create_task(self._answer(question), name="relay")
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        if self._open:
            for told in await self._db.call(self._shared.answers, self._own):
                waiting = self._open.get(told.number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(told)

    async def _answer(self, question: QuestionRecord) -> None:
        try:
            async with asyncio.timeout(AGENT_SECONDS):
                answer, error = await self._asked(question), ""
        except TimeoutError:
            answer, error = b"", f"no answer within {AGENT_SECONDS:g} seconds"
        except SegctlError as refused:
            answer, error = b"", str(refused)[:LONGEST_ERROR] or "it was not asked"
        try:
            await self._answers.add(AnswerRecord(question.id, question.number, answer, error))
        except StateError as failed:
            log.error("another controller waits for an answer in vain: %s", failed, extra=about(Event.STORE))

    async def _asked(self, question: QuestionRecord) -> bytes:
        session = self._registry.session(question.host)
        if session is None:
            raise PreconditionError("its agent has just left the controller that it was connected to")
        try:
            if question.kind == PROBE:
                request = agent_pb2.ProbeRequest.FromString(question.body)
                return (await session.probe(request)).SerializeToString()
            if question.kind == IMPACT and session.previews:
                if len(question.body) <= LARGE:
                    draft = _unpacked(question.body)
                    return (await session.impact(draft, NAMED_BY_HOST)).SerializeToString()
                async with self._slots:
                    draft = await asyncio.to_thread(_unpacked, question.body)
                    return (await session.impact(draft, NAMED_BY_HOST)).SerializeToString()
        except (DecodeError, zlib.error) as error:
            raise PreconditionError(f"the question cannot be read: {error}") from error
        raise PreconditionError("its agent cannot answer that")


def _unpacked(body: bytes) -> bytes:
    """Raises zlib.error."""
    unpacking = zlib.decompressobj()
    draft = unpacking.decompress(body, LONGEST_DRAFT)
    if not unpacking.eof:
        raise zlib.error(f"it is cut, or more than {LONGEST_DRAFT:,} bytes")
    return draft


class Distant:
    """A host that another controller has. Implements segctl_controller.reachable.Reachable."""

    def __init__(self, relay: Relay, host: str, replica: str, where: str) -> None:
        self._relay, self._host, self._replica, self._where = relay, host, replica, where

    @property
    def host(self) -> str:
        return self._host

    @property
    def previews(self) -> bool:
        """The other controller knows; it says so where its agent cannot."""
        return True

    async def probe(self, request: agent_pb2.ProbeRequest) -> agent_pb2.ProbeReply:
        return _read(agent_pb2.ProbeReply, await self._ask(PROBE, request.SerializeToString()))

    async def impact(self, draft: bytes, limit: int) -> agent_pb2.ImpactReply:
        """`limit` is the same everywhere."""
        packed = await asyncio.to_thread(zlib.compress, draft, 1)
        return _read(agent_pb2.ImpactReply, await self._ask(IMPACT, packed))

    async def _ask(self, kind: str, body: bytes) -> bytes:
        return await self._relay.ask(self._host, self._replica, self._where, kind, body)


def _read(kind: type[M], answer: bytes) -> M:
    """Raises PreconditionError."""
    try:
        return kind.FromString(answer)
    except DecodeError as error:
        raise PreconditionError(f"what the other controller answered cannot be read: {error}") from error
