"""From the kernel's log to denials, in the agent's loop.

    NflogReader -> parse_packet -> Coalescer -> Attributor -> on_denials(denials, lost)

A process is looked up in the very callback that read its packet, for it may exit at once; only for packets that open a
denial or a window, and for no more than a fifth of the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from segctl_agent.denials.coalesce import Aggregate, Coalescer, Key, Step
from segctl_agent.denials.lost import CounterKey, LostCount
from segctl_agent.denials.nflog import LoggedPacket
from segctl_agent.denials.packet import Packet, parse_packet
from segctl_agent.denials.values import Attribution, Denial, ProcessInfo

OnDenials = Callable[[list[Denial], int], None]
"""Denials, and how many more packets were denied that no denial counts."""

LOOKUP_SHARE = 0.2
LOOKUP_BURST_SECONDS = 0.2
DRAIN_READS = 64
_BUSY = Attribution(ProcessInfo(), "too many denials at once to look up every process")


class PacketSource(Protocol):
    """What the pipeline needs of NflogReader."""

    missed: int

    def start(self, loop: asyncio.AbstractEventLoop, on_packets: Callable[[list[LoggedPacket]], None]) -> None: ...

    def read(self, reads: int = ...) -> list[LoggedPacket]: ...

    def close(self) -> None: ...


class DenialPipeline:
    """`attribute` is Attributor.attribute; `generation` tells the generation in force. `clock`: seconds, monotonic."""

    def __init__(
        self,
        source: PacketSource,
        attribute: Callable[[LoggedPacket, Packet], Attribution],
        on_denials: OnDenials,
        generation: Callable[[], int] = lambda: 0,
        coalescer: Coalescer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._attribute = attribute
        self._on_denials = on_denials
        self._generation = generation
        self._coalescer = coalescer or Coalescer()
        self._clock = clock
        self._lost = LostCount()
        self._missed_told = 0
        self._refused_told = 0
        self._lookup_allowance = LOOKUP_BURST_SECONDS
        self._lookup_at = clock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.received = 0
        self.undecodable = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._source.start(loop, self.take)

    def close(self) -> None:
        """Report what is held back, and stop reading."""
        if self._timer is not None:
            self._timer.cancel()
        self.take(self._source.read())
        self._source.close()
        self._tell([self._denial(a) for a in self._coalescer.close()])
        if self._timer is not None:
            self._timer.cancel()
        self._loop = self._timer = None

    def take(self, packets: list[LoggedPacket]) -> None:
        """Packets as they were read; reports what is due."""
        now = self._clock()
        denials = [self._denial(a) for a in self._coalescer.due(now)]
        for logged in packets:
            denial = self._one(logged, now)
            if denial is not None:
                denials.append(denial)
        self._tell(denials)
        self._schedule()

    def account(self, counters: Mapping[CounterKey, int]) -> None:
        """Compare the table's counters, read just now, with what was received; to be called every few seconds. In a
        flood that does not end, packets still wait and the comparison is left to a later call."""
        for _ in range(DRAIN_READS):
            packets = self._source.read()
            if not packets:
                self._tell([], self._lost.compare(counters))
                return
            self.take(packets)

    def _one(self, logged: LoggedPacket, now: float) -> Denial | None:
        self.received += 1
        self._lost.received(1)
        packet = parse_packet(logged.payload)
        if packet is None:
            self.undecodable += 1
            self._coalescer.lost += 1
            return None
        key = _key(logged, packet)
        step = self._coalescer.add(key, logged.at_us, now)
        if step is Step.NEW:
            attribution = self._look_up(logged, packet)
            return self._denial(Aggregate(key, 1, logged.at_us, logged.at_us, attribution))
        if step is Step.REPEAT:
            self._coalescer.attribute(key, self._look_up(logged, packet))
        return None

    def _look_up(self, logged: LoggedPacket, packet: Packet) -> Attribution:
        before = self._clock()
        earned = (before - self._lookup_at) * LOOKUP_SHARE
        self._lookup_allowance = min(LOOKUP_BURST_SECONDS, self._lookup_allowance + earned)
        self._lookup_at = before
        if self._lookup_allowance <= 0:
            return _BUSY
        attribution = self._attribute(logged, packet)
        self._lookup_allowance -= self._clock() - before
        return attribution

    def _denial(self, aggregate: Aggregate) -> Denial:
        key, attribution = aggregate.key, aggregate.attribution
        return Denial(
            ingress=key.ingress,
            verdict=key.verdict,
            workload=key.workload,
            remote=key.remote,
            protocol=key.protocol,
            port=key.port,
            process=attribution.process,
            process_unknown=attribution.unknown,
            count=aggregate.count,
            first_seen_us=aggregate.first_us,
            last_seen_us=aggregate.last_us,
            generation=self._generation(),
        )

    def _tell(self, denials: list[Denial], lost: int = 0) -> None:
        # Gaps in the kernel's numbering are told at once; the counters then must not tell them again.
        missed = self._source.missed - self._missed_told
        self._lost.received(missed)
        self._missed_told += missed
        lost += missed + self._coalescer.lost - self._refused_told
        self._refused_told = self._coalescer.lost
        if denials or lost:
            self._on_denials(denials, lost)

    def _schedule(self) -> None:
        """A timer for the first window that ends, when there is a loop to run it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._coalescer.next_due()
        if self._loop is not None and due is not None:
            self._timer = self._loop.call_later(max(0.0, due - self._clock()) + 0.001, self.take, [])


def _key(logged: LoggedPacket, packet: Packet) -> Key:
    ingress = logged.prefix.direction == "in"
    return Key(
        ingress=ingress,
        verdict="denied" if logged.prefix.verdict == "deny" else "would-deny",
        workload=logged.prefix.workload,
        remote=packet.source if ingress else packet.destination,
        protocol=packet.protocol,
        port=packet.destination_port,
        uid=logged.uid,
    )
