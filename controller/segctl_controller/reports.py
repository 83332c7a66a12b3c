"""Agent.Report: denials, events and hits, and flows, each in its store before they are acknowledged."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from datetime import datetime

import grpc
from segctl.errors import WireError
from segctl.logs import Event, about
from segctl.model.policy import PortRange
from segctl.policy.decide import next_end
from segctl.proto.v1 import admin_pb2, agent_pb2
from segctl.wire import address_from_wire, denied_service_from_wire

from segctl_controller.clock import Clock
from segctl_controller.enrich import Context as Enriched
from segctl_controller.enrich import Denied, enrich
from segctl_controller.errors import LimitError
from segctl_controller.feed import Feed
from segctl_controller.flowbatch import MOST_FLOWS, columns_of, hits_of
from segctl_controller.flowstore.records import FlowReport
from segctl_controller.flowstore.thread import FlowThread
from segctl_controller.pace import Paces
from segctl_controller.registry import Registry
from segctl_controller.rpc import Caller, Context, Refusing, caller_of
from segctl_controller.store.records import Batch, DenialRecord, EventRecord, HitRecord
from segctl_controller.store_thread import StoreThread

MOST_DENIALS = 1000
MOST_EVENTS = 100
LARGEST_BATCH = 2 * 1024 * 1024
LARGEST_COUNT = 2**53
FUTURE_US = 3_600_000_000
MOST_CACHED = 10_000
TURN = 0.005
"""Seconds of describing denials between two turns of the event loop."""
RATE, BURST = 20.0, 100.0
"""Batches a second and host: beyond it the stream is read more slowly, and the agent's own bound takes over."""
FLOW_RATE, FLOW_BURST = 1000.0, 50_000.0
"""Flows a second and host, in the same way: the flow store is shared by all hosts."""
STRANGE_SECONDS = 600.0
"""Between two events about one host that speaks of rules it was not sent."""
log = logging.getLogger(__name__)


class ReportService:
    def __init__(
        self, fleet: str, registry: Registry, db: StoreThread, flows: FlowThread, clock: Clock, feed: Feed
    ) -> None:
        self._fleet_id = fleet
        self._registry = registry
        self._db = db
        self._flows = flows
        self._clock = clock
        self._feed = feed
        self._cache: dict[Denied, Enriched] = {}
        self._cached_for = -1
        self._cached_until: datetime | None = None
        self._paces = Paces(RATE, BURST)
        self._flow_paces = Paces(FLOW_RATE, FLOW_BURST)
        self._strange_told: dict[str, float] = {}

    async def serve(self, context: Context) -> None:
        """The handler of Agent.Report; acknowledgements are written as bytes."""
        async with Refusing(context):
            caller = caller_of(context, self._fleet_id, "host")
            self._registry.verify(caller.name, caller.serial, caller.issued_us)
            while True:
                message = await context.read()
                if message is grpc.aio.EOF:
                    return
                await self._paces.wait(caller.name)
                await self._flow_paces.wait(caller.name, min(len(message.flows.workload), MOST_FLOWS))
                self._registry.verify(caller.name, caller.serial, caller.issued_us)
                try:
                    check_bounds(message)
                    told = self._told(caller.name, message)
                    batch = await self._batch(caller, message)
                except LimitError as error:
                    # It never will be taken. RESOURCE_EXHAUSTED, as of a full disk, would have the agent send it again
                    # for ever, and nothing behind it.
                    raise WireError(str(error)) from error
                await self._store(caller, batch, told)
                ack = agent_pb2.ReportAck(sequence=batch.sequence)
                await context.write(ack.SerializeToString())

    async def _store(self, caller: Caller, batch: Batch, told: FlowReport | None) -> None:
        """In both stores before it is acknowledged. Each knows what it has: what only one of them could store comes
        again, and is counted once."""
        if told is not None:
            await self._flows.room()
            self._registry.verify(caller.name, caller.serial, caller.issued_us)
            fresh = await self._flows.add(told)
            if batch.empty:
                if fresh:
                    self._feed.publish(batch.host, (), 0)
                return
        stored = await self._db.call(self._db.store.add_batch, batch)
        if stored is not None:
            self._feed.publish(batch.host, stored, batch.lost)

    def _told(self, host: str, message: agent_pb2.ReportBatch) -> FlowReport | None:
        """The flows of a report; None: it is about none. Raises LimitError over the bounds, WireError for columns that
        do not hold together."""
        now = self._clock.now_us()
        columns = columns_of(message.flows, now)
        if not len(columns) and not message.flows.lost:
            return None
        return FlowReport(host, message.epoch, message.sequence, now, columns, message.flows.lost)

    async def _batch(self, caller: Caller, message: agent_pb2.ReportBatch) -> Batch:
        """All but the flows. Raises LimitError over the bounds, WireError for a malformed field; then nothing of it is
        stored."""
        host, now = caller.name, self._clock.now_us()
        hits, strange = await self._hits(caller, message, now)
        return Batch(
            host=host,
            epoch=message.epoch,
            sequence=message.sequence,
            at_us=now,
            denials=tuple([record async for record in self._denials(caller, message, now)]),
            events=(*(_event(host, event, now) for event in message.events), *strange),
            lost=message.lost,
            hits=hits,
        )

    async def _hits(
        self, caller: Caller, message: agent_pb2.ReportBatch, now: int
    ) -> tuple[tuple[HitRecord, ...], tuple[EventRecord, ...]]:
        """The hits of its own rules, and now and then an event about the others.

        A rule that it was taken at its word for once stays its own: the rulebook begins anew with the controller.
        """
        if not message.hits:
            return (), ()
        host = caller.name
        await self._registry.fleet.compiled(host)
        known = self._registry.fleet.rulebook.rules_of(host)
        taken, strange = hits_of(host, message.hits, known, now)
        if strange:
            known |= await self._db.call(self._db.store.rules_hit, host)
            taken, strange = hits_of(host, message.hits, known, now)
        self._registry.verify(host, caller.serial, caller.issued_us)
        clock = asyncio.get_running_loop().time()
        if not strange or clock - self._strange_told.get(host, -STRANGE_SECONDS) < STRANGE_SECONDS:
            return taken, ()
        self._strange_told[host] = clock
        names = ", ".join(strange[:5]) + (f" and {len(strange) - 5} more" if len(strange) > 5 else "")
        text = f"counts hits of rules that it was not sent of late ({names}): they are not stored"
        log.warning(
            "event host=%s kind=report: %s", host, text, extra=about(Event.HOST_EVENT, host=host, kind="report")
        )
        return taken, (EventRecord(host, "report", text, now),)

    async def _denials(self, caller: Caller, message: agent_pb2.ReportBatch, now: int) -> AsyncIterator[DenialRecord]:
        """In turns with the rest of the controller: a thousand denials under a thousand rules take a while."""
        turn = time.monotonic()
        for denial in message.denials:
            yield self._denial(caller.name, denial, now)
            if time.monotonic() - turn > TURN:
                await asyncio.sleep(0)
                self._registry.verify(caller.name, caller.serial, caller.issued_us)
                turn = time.monotonic()

    def _denial(self, host: str, denial: agent_pb2.Denial, now: int) -> DenialRecord:
        _check(denial)
        process, remote, port = (
            denial.process,
            address_from_wire(denial.remote),
            denied_service_from_wire(denial.service),
        )
        denied = Denied(host, denial.ingress, denial.workload, remote, port, process.unit, process.user)
        known = self._enriched(denied)
        first = min(denial.first_seen_us, now + FUTURE_US)
        last = max(first, min(denial.last_seen_us, now + FUTURE_US))
        body = admin_pb2.DeniedConnection(
            host=host,
            denial=denial,
            peer_host=known.peer_host,
            peer_workload=known.peer_workload,
            peer_tags=dict(known.peer_tags.pairs),
            reason=known.reason,
            rule=known.rule,
            suggestion=known.suggestion,
            tags=dict(known.tags.pairs),
            service_name=known.service_name,
        )
        parts = (denial.ingress, denial.verdict, denial.workload, remote, port, process.exe)
        key = "\x1f".join(str(part) for part in parts)
        return DenialRecord(host, denial.workload, key, denial.count, first, last, body.SerializeToString())

    def _enriched(self, denied: Denied) -> Enriched:
        fleet, now = self._registry.fleet, self._clock.now()
        ended = self._cached_until is not None and now >= self._cached_until
        if ended or self._cached_for != fleet.revision or len(self._cache) >= MOST_CACHED:
            self._cache.clear()
            self._cached_for, self._cached_until = fleet.revision, next_end(fleet.active.policy, now)
        known = self._cache.get(denied)
        if known is None:
            known = enrich(denied, fleet.active.policy, fleet.inventory, fleet.holders, self._listener, now)
            self._cache[denied] = known
        return known

    def _listener(self, host: str, port: PortRange) -> str:
        record = self._registry.fleet.hosts.get(host)
        if record is None:
            return ""
        facts = agent_pb2.Facts.FromString(record.facts)
        names = {
            listener.workload
            for listener in facts.listeners
            if listener.protocol == port.protocol and listener.port == port.low
        }
        return names.pop() if len(names) == 1 else ""


def check_bounds(message: agent_pb2.ReportBatch) -> None:
    """Raises LimitError and WireError."""
    if len(message.denials) > MOST_DENIALS or len(message.events) > MOST_EVENTS:
        raise LimitError(f"a report holds at most {MOST_DENIALS} denials and {MOST_EVENTS} events")
    if message.ByteSize() > LARGEST_BATCH:
        raise LimitError(f"a report of {message.ByteSize()} bytes; at most {LARGEST_BATCH} are taken")
    if not 1 <= len(message.epoch) <= 64 or not 1 <= message.sequence < 2**62 or message.lost > LARGEST_COUNT:
        raise WireError("a report needs an epoch of 1 to 64 characters, a sequence from 1 and a sane lost count")


def _check(denial: agent_pb2.Denial) -> None:
    process = denial.process
    texts = (process.exe, process.unit, process.cgroup, denial.process_unknown)
    if denial.verdict not in ("denied", "would-deny"):
        raise WireError(f"denial verdict {denial.verdict[:40]!r} is neither denied nor would-deny")
    if len(denial.workload) > 64 or len(process.user) > 64 or len(process.command.encode()) > 1024:
        raise LimitError("a denial's workload, user or command is too long")
    if any(len(text) > 4096 for text in texts):
        raise LimitError("a denial's process description is too long: at most 4096 characters a field")
    if not 1 <= denial.count <= LARGEST_COUNT or denial.first_seen_us < 0:
        raise WireError("a denial needs a count of at least one and times after 1970")


def _event(host: str, event: agent_pb2.Event, now: int) -> EventRecord:
    kind, message = (" ".join(text.split()) for text in (event.kind[:40], event.message[:500]))
    log.warning("event host=%s kind=%s: %s", host, kind, message, extra=about(Event.HOST_EVENT, host=host, kind=kind))
    at = min(max(event.at_us, 0), now + FUTURE_US)
    return EventRecord(host, event.kind[:40], event.message[:2000], at, event.culprit_pid, event.culprit_name[:128])
