"""Denials and events on their way to the controller: bounded, in order, sent again until they are stored there.

Sans I/O: report_stream.py moves the batches. One queue lives as long as the agent's process; its `epoch` tells the
controller that sequence numbers start anew.
"""

from __future__ import annotations

import secrets
from collections import deque
from dataclasses import dataclass, field

from segctl.proto.v1 import agent_pb2 as pb

MAX_DENIALS = 20_000
MAX_BYTES = 8 << 20
MAX_EVENTS = 1_000
BATCH_DENIALS = 500
BATCH_EVENTS = 100
WINDOW = 8
"""Batches on their way at one time. What lies in them is not counted against the bounds: it is small by itself."""


@dataclass(slots=True)
class ReportQueue:
    """What the controller does not know yet."""

    epoch: str = field(default_factory=lambda: secrets.token_hex(8))
    max_denials: int = MAX_DENIALS
    max_bytes: int = MAX_BYTES
    _denials: deque[pb.Denial] = field(default_factory=deque)
    _bytes: int = 0
    _events: deque[pb.Event] = field(default_factory=deque)
    _lost: int = 0
    _events_lost: int = 0
    _sent: deque[pb.ReportBatch] = field(default_factory=deque)
    _resend: deque[pb.ReportBatch] = field(default_factory=deque)
    _sequence: int = 0

    def add_denial(self, denial: pb.Denial) -> None:
        """Queues one aggregate. The oldest make room; each connection that they stood for counts as lost."""
        self._denials.append(denial)
        self._bytes += denial.ByteSize()
        while self._denials and (len(self._denials) > self.max_denials or self._bytes > self.max_bytes):
            oldest = self._denials.popleft()
            self._bytes -= oldest.ByteSize()
            self._lost += max(oldest.count, 1)

    def add_event(self, event: pb.Event) -> None:
        self._events.append(event)
        if len(self._events) > MAX_EVENTS:
            self._events.popleft()
            self._events_lost += 1

    def add_lost(self, count: int) -> None:
        """Counts denials that the kernel counted and nobody could describe."""
        self._lost += count

    @property
    def waiting(self) -> int:
        """Denials and events that the controller has not acknowledged."""
        on_the_way = sum(len(b.denials) + len(b.events) for b in self._sent)
        return len(self._denials) + len(self._events) + on_the_way

    @property
    def lost(self) -> int:
        """Lost denials that were not yet reported as lost."""
        return self._lost

    def next_batch(self) -> pb.ReportBatch | None:
        """The next batch to send: after a reconnection first what was never acknowledged, under its old numbers.
        None: nothing to send, or the window is full."""
        if self._resend:
            return self._resend.popleft()
        if len(self._sent) >= WINDOW or not (self._denials or self._events or self._lost or self._events_lost):
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
        self._sent.append(batch)
        return batch

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
            items += len(batch.denials) + len(batch.events)
            self._lost += batch.lost + sum(max(d.count, 1) for d in batch.denials)
        self._sent.clear()
        self._resend.clear()
        return items
