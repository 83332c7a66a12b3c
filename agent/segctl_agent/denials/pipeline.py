"""From the kernel's log and its counters to denials, in the agent's loop.

    NflogReader ── parse_packet ──▶ Coalescer ──▶ Lookups ── Attributor ──▶ on_denials(denials, lost)
                                      ▲   │ one packet logged
    DeniedSets ── Sampler ── Ledger ──┘ ◀─┘
                             what the kernel counted and did not log

A process is looked up in the very callback that read its packet, for it may exit at once; only for packets that open a
denial or a window, and for no more than a fifth of the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from segctl_agent.denials.coalesce import Aggregate, Coalescer, Key, Step
from segctl_agent.denials.counts import Ledger, NameOf, Sets, countable
from segctl_agent.denials.lookups import Lookups
from segctl_agent.denials.lost import CounterKey, LostCount
from segctl_agent.denials.packet import Packet, parse_packet
from segctl_agent.denials.sampler import Sampler, SetSource
from segctl_agent.denials.values import Attribution, Denial, LoggedPacket

OnDenials = Callable[[list[Denial], int], None]
"""Denials, and how many more packets were denied that no denial counts."""

DRAIN_READS = 64
SETTLE_SECONDS = 0.05
"""After a dump, until the logs of what it counted have come: nflog.GATHERED holds them for 0.01 s at most."""


class PacketSource(Protocol):
    """What the pipeline needs of NflogReader."""

    missed: int

    def start(self, loop: asyncio.AbstractEventLoop, on_packets: Callable[[list[LoggedPacket]], None]) -> None: ...

    def read(self, reads: int = ...) -> list[LoggedPacket]: ...

    def close(self) -> None: ...


class DenialPipeline:
    """`attribute` is Attributor.attribute_many; `generation` tells the generation in force. `sets` are what the kernel
    counted, and `name_of` whose a mark is; without them the logs alone are counted. `clock`: seconds, monotonic.
    `cost`: seconds of CPU."""

    def __init__(
        self,
        source: PacketSource,
        attribute: Callable[[Sequence[tuple[LoggedPacket, Packet]]], list[Attribution]],
        on_denials: OnDenials,
        generation: Callable[[], int] = lambda: 0,
        *,
        sets: SetSource | None = None,
        name_of: NameOf = lambda direction, mark: None,
        clock: Callable[[], float] = time.monotonic,
        cost: Callable[[], float] = time.thread_time,
    ) -> None:
        self._source = source
        self._on_denials = on_denials
        self._generation = generation
        self._clock = clock
        self._coalescer = Coalescer()
        self._lookups = Lookups(attribute, clock, cost)
        self._lost = LostCount()
        self._sampler = Sampler(sets, self.counted, clock) if sets is not None else None
        self._ledger = Ledger(name_of)
        self._missed_told = 0
        self._refused_told = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._settling: asyncio.TimerHandle | None = None
        self.received = 0
        self.undecodable = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._source.start(loop, self.take)
        if self._sampler is not None:
            self._sampler.start(loop)

    def close(self) -> None:
        """Report what is held back, and stop reading."""
        if self._sampler is not None:
            sets = self._sampler.close()
            self._drain()
            self._ledger.counted(sets, _unix_us())
            self._tell(self._surplus(final=True), self._ledger.pending)
        else:
            self._drain()
        self._source.close()
        self._tell([*self._named(final=True), *(self._denial(a) for a in self._coalescer.close())])
        for timer in (self._timer, self._settling):
            if timer is not None:
                timer.cancel()
        self._loop = self._timer = self._settling = None

    def take(self, packets: list[LoggedPacket]) -> None:
        """Packets as they were read; reports what is due."""
        now = self._clock()
        denials = [self._denial(a) for a in self._coalescer.due(now)]
        for logged in packets:
            self._one(logged, now)
        if packets and self._sampler is not None:
            self._sampler.busy()
        self._tell([*denials, *self._named()])
        self._schedule()

    def counted(self, sets: Sets) -> bool:
        """A dump of the sets; tells whether there are denials. In a flood of logs that does not end, what was not
        logged waits for a later dump."""
        fresh = self._ledger.counted(sets, _unix_us())
        if self._loop is None:
            self._settle()
        else:
            self._settling = self._loop.call_later(SETTLE_SECONDS, self._settle)
        return fresh

    def _settle(self) -> None:
        if self._sampler is not None and self._drain():
            self._tell(self._surplus())
            self._schedule()

    def account(self, counters: Mapping[CounterKey, int]) -> None:
        """Compare the table's counters, read just now, with what was received; to be called every few seconds."""
        if self._sampler is None:
            self._compare(counters)
        else:
            self._sampler.soon(lambda: self._compare(counters))

    def _compare(self, counters: Mapping[CounterKey, int]) -> None:
        if self._drain():
            self._tell([], self._lost.compare(counters, self._ledger.pending))

    def _drain(self) -> bool:
        """Read what waits. False when there is more than a flood's worth."""
        for _ in range(DRAIN_READS):
            packets = self._source.read()
            if not packets:
                return True
            self.take(packets)
        return False

    def _one(self, logged: LoggedPacket, now: float) -> None:
        self.received += 1
        packet = parse_packet(logged.payload)
        if packet is None:
            self.undecodable += 1
            self._coalescer.lost += 1
            self._lost.received(1)
            return
        key = _key(logged, packet)
        step = self._coalescer.add(key, logged.at_us, now)
        if self._sampler is not None and countable(key):
            if step is Step.LOST:
                self._coalescer.lost -= 1  # no loss: the sets have it
                return
            self._ledger.logged(key)
        self._lost.received(1)
        if step in (Step.NEW, Step.REPEAT):
            self._lookups.add(key, logged, packet, told=step is Step.NEW, now=now)

    def _named(self, *, final: bool = False) -> list[Denial]:
        """The denials that waited for their process, and now know it or never will."""
        denials = []
        for lookup, attribution in self._lookups.ready(final=final):
            self._coalescer.attribute(lookup.key, attribution, self._clock())
            if lookup.told:
                at_us = lookup.logged.at_us
                denials.append(self._denial(Aggregate(lookup.key, 1, at_us, at_us, attribution)))
        return denials

    def _surplus(self, *, final: bool = False) -> list[Denial]:
        """What the kernel counted and did not log."""
        now = self._clock()
        denials = [self._denial(a) for a in self._coalescer.due(now)]
        for surplus in self._ledger.due(final=final):
            told = self._coalescer.surplus(surplus.flow, surplus.packets, surplus.first_us, surplus.last_us, now)
            if told is not None:
                self._ledger.told(surplus)
                self._lost.received(surplus.packets)
                denials += [self._denial(a) for a in told]
        return denials

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
        if self._sampler is None:
            # Gaps in the kernel's numbering are told at once; the counters then must not tell them again. With sets
            # these packets are no loss: they were counted.
            missed = self._source.missed - self._missed_told
            self._lost.received(missed)
            self._missed_told += missed
            lost += missed
        lost += self._coalescer.lost - self._refused_told
        self._refused_told = self._coalescer.lost
        if denials or lost:
            self._on_denials(denials, lost)

    def _schedule(self) -> None:
        """A timer for the first window that ends or lookup that waits, when there is a loop to run it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = [at for at in (self._coalescer.next_due(), self._lookups.next_due()) if at is not None]
        if self._loop is not None and due:
            self._timer = self._loop.call_later(max(0.0, min(due) - self._clock()) + 0.001, self.take, [])


def _unix_us() -> int:
    return time.time_ns() // 1000


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
