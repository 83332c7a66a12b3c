"""Denials, flows, hits and events on their way to the controller: bounded, in order, sent again until stored there.

Sans I/O: report_stream.py moves the batches. One queue lives as long as the agent's process; its `epoch` tells the
controller that sequence numbers start anew.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from segctl.proto.v1 import agent_pb2 as pb

MAX_DENIALS = 20_000
MAX_BYTES = 8 << 20
MAX_EVENTS = 1_000
MAX_FLOW_BYTES = 4 << 20
"""Flow batches that wait: an hour of 300 rows each 5 s."""
MAX_HITS = 20_000
BATCH_DENIALS = 500
BATCH_EVENTS = 100
BATCH_HITS = 2_000
WINDOW = 8
"""Batches on their way at one time. What lies in them is not counted against the bounds: it is small by itself."""


@dataclass(slots=True)
class ReportQueue:
    """What the controller does not know yet."""

    epoch: str = field(default_factory=lambda: secrets.token_hex(8))
    max_denials: int = MAX_DENIALS
    max_bytes: int = MAX_BYTES
    max_flow_bytes: int = MAX_FLOW_BYTES
    _denials: deque[pb.Denial] = field(default_factory=deque)
    _bytes: int = 0
    _events: deque[pb.Event] = field(default_factory=deque)
    _lost: int = 0
    _events_lost: int = 0
    _flows: deque[pb.FlowBatch] = field(default_factory=deque)
    _flow_bytes: int = 0
    _flows_lost: int = 0
    _hits: dict[tuple[str, bool], pb.RuleHits] = field(default_factory=dict)
    _sent: deque[pb.ReportBatch] = field(default_factory=deque)
    _resend: deque[pb.ReportBatch] = field(default_factory=deque)
    _sequence: int = 0
    lost_so_far: dict[str, int] = field(default_factory=lambda: {"denials": 0, "events": 0, "flows": 0})
    """Since the queue was made: connections that denials stood for, events, new flows."""

    def add_denial(self, denial: pb.Denial) -> None:
        """Queues one aggregate. The oldest make room; each connection that they stood for counts as lost."""
        self._denials.append(denial)
        self._bytes += denial.ByteSize()
        while self._denials and (len(self._denials) > self.max_denials or self._bytes > self.max_bytes):
            oldest = self._denials.popleft()
            self._bytes -= oldest.ByteSize()
            self._lose_denials(max(oldest.count, 1))

    def add_event(self, event: pb.Event) -> None:
        self._events.append(event)
        if len(self._events) > MAX_EVENTS:
            self._events.popleft()
            self._events_lost += 1
            self.lost_so_far["events"] += 1

    def add_flows(self, batch: pb.FlowBatch) -> None:
        """Queues the flows of a window. The oldest windows make room; their new flows count as lost."""
        self._flows.append(batch)
        self._flow_bytes += batch.ByteSize()
        while self._flows and self._flow_bytes > self.max_flow_bytes:
            oldest = self._flows.popleft()
            self._flow_bytes -= oldest.ByteSize()
            self._lose_flows(_flows_in(oldest))

    def add_hits(self, hits: Iterable[pb.RuleHits]) -> None:
        """Counts of rules as they stand: the newer one takes the place of one that waits. Over the bound a rule's count
        is left out, to come with the next."""
        for hit in hits:
            key = (hit.rule, hit.ingress)
            if key in self._hits or len(self._hits) < MAX_HITS:
                self._hits[key] = hit

    def add_lost(self, count: int) -> None:
        """Counts denials that the kernel counted and nobody could describe."""
        self._lost += count

    @property
    def waiting(self) -> int:
        """Denials, events, windows of flows and counts of rules that the controller has not acknowledged."""
        here = len(self._denials) + len(self._events) + len(self._flows) + len(self._hits)
        return here + sum(_items(b) for b in self._sent)

    @property
    def lost(self) -> int:
        """Lost denials that were not yet reported as lost."""
        return self._lost

    def next_batch(self) -> pb.ReportBatch | None:
        """The next batch to send: after a reconnection first what was never acknowledged, under its old numbers.
        None: nothing to send, or the window is full."""
        if self._resend:
            return self._resend.popleft()
        if len(self._sent) >= WINDOW or not self._something:
            return None
        self._sequence += 1
        batch = pb.ReportBatch(epoch=self.epoch, sequence=self._sequence, lost=self._lost)
        self._lost = 0
        if self._events_lost:
            batch.events.add(
                kind="state", message=f"{self._events_lost} older events did not fit the queue and are lost"
            )
            self._events_lost = 0
        while self._events and len(batch.events) < BATCH_EVENTS:
            batch.events.append(self._events.popleft())
        while self._denials and len(batch.denials) < BATCH_DENIALS:
            denial = self._denials.popleft()
            self._bytes -= denial.ByteSize()
            batch.denials.append(denial)
        self._put_flows(batch)
        while self._hits and len(batch.hits) < BATCH_HITS:
            batch.hits.append(self._hits.pop(next(iter(self._hits))))
        self._sent.append(batch)
        return batch

    @property
    def _something(self) -> bool:
        lost = self._lost or self._events_lost or self._flows_lost
        return bool(lost or self._denials or self._events or self._flows or self._hits)

    def _put_flows(self, batch: pb.ReportBatch) -> None:
        """One window at most, and what was lost."""
        if self._flows:
            flows = self._flows.popleft()
            self._flow_bytes -= flows.ByteSize()
            batch.flows.CopyFrom(flows)
        if self._flows_lost:
            batch.flows.lost += self._flows_lost
            self._flows_lost = 0

    def acknowledge(self, sequence: int) -> None:
        """Everything up to `sequence` is stored durably."""
        while self._sent and self._sent[0].sequence <= sequence:
            self._sent.popleft()
        while self._resend and self._resend[0].sequence <= sequence:
            self._resend.popleft()

    def reconnected(self) -> None:
        """A new stream: what is not acknowledged goes again, in order."""
        self._resend = deque(self._sent)

    def drop_refused(self) -> int:
        """The controller will never take what is on its way: counts it as lost, or it would block the queue for ever.
        Returns how many items that were."""
        items = 0
        for batch in self._sent:
            items += _items(batch)
            self._lose_flows(sum(batch.flows.flows))
            self._lose_denials(sum(max(d.count, 1) for d in batch.denials))
            self.lost_so_far["events"] += len(batch.events)
            self._flows_lost += batch.flows.lost
            self._lost += batch.lost
        self._sent.clear()
        self._resend.clear()
        return items

    def _lose_denials(self, count: int) -> None:
        self._lost += count
        self.lost_so_far["denials"] += count

    def _lose_flows(self, count: int) -> None:
        self._flows_lost += count
        self.lost_so_far["flows"] += count


def _items(batch: pb.ReportBatch) -> int:
    return len(batch.denials) + len(batch.events) + len(batch.hits) + batch.HasField("flows")


def _flows_in(batch: pb.FlowBatch) -> int:
    return sum(batch.flows) + batch.lost
