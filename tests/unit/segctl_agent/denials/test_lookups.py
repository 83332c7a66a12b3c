"""Lookups: at once while there is time, later in batches, never later than they are good for."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from segctl_agent.denials.coalesce import Key
from segctl_agent.denials.lookups import BATCH, BURST_SECONDS, BUSY, MAX_WAITING, PATIENCE_SECONDS, SHARE, Lookups
from segctl_agent.denials.packet import Packet
from segctl_agent.denials.prefix import Prefix
from segctl_agent.denials.values import Attribution, LoggedPacket, ProcessInfo

REMOTE = ip_address("192.0.2.1")
LOGGED = LoggedPacket(Prefix("out", "deny", "shop"), b"", 0, 0, 1, 0, 0)
PACKET = Packet(REMOTE, REMOTE, "tcp")


class Desk:
    """A clock by hand; a batch takes `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.now = 10.0
        self.seconds = seconds
        self.batches: list[int] = []
        self.lookups = Lookups(self.attribute, lambda: self.now, lambda: self.now)

    def attribute(self, packets: Sequence[tuple[LoggedPacket, Packet]]) -> list[Attribution]:
        self.batches.append(len(packets))
        self.now += self.seconds
        return [Attribution(ProcessInfo(pid=1))] * len(packets)

    def add(self, count: int) -> None:
        for port in range(count):
            key = Key(False, "denied", "shop", REMOTE, "tcp", port, 0)
            self.lookups.add(key, LOGGED, PACKET, told=True, now=self.now)


def test_one_is_answered_at_once() -> None:
    desk = Desk(0.001)
    desk.add(1)
    ((lookup, attribution),) = desk.lookups.ready()
    assert (lookup.key.port, attribution.process.pid) == (0, 1)
    assert desk.lookups.next_due() is None


def test_what_waits_is_answered_when_its_time_is_earned() -> None:
    desk = Desk(0.5)
    desk.add(BATCH + 5)
    assert len(desk.lookups.ready()) == BATCH
    due = desk.lookups.next_due()
    assert due is not None
    assert abs(due - desk.now - (0.5 - BURST_SECONDS - 0.5 * SHARE) / SHARE) < 0.01
    assert desk.lookups.ready() == []
    desk.now += PATIENCE_SECONDS + 0.1
    assert [attribution for _, attribution in desk.lookups.ready()] == [BUSY] * 5


def test_the_queue_is_bounded_and_ends_empty() -> None:
    desk = Desk(0.5)
    desk.add(MAX_WAITING + 1000)
    answered = desk.lookups.ready()
    assert len(answered) == 1000
    assert [a for _, a in answered[BATCH:]] == [BUSY] * (1000 - BATCH)
    assert len(desk.lookups.ready(final=True)) == MAX_WAITING
    assert desk.lookups.next_due() is None
