"""DenialPipeline without a kernel: a scripted source, a clock by hand."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from segctl_agent.denials.attribute import printable, unit_of
from segctl_agent.denials.coalesce import MAX_KEYS
from segctl_agent.denials.counts import Direction, Element, Version
from segctl_agent.denials.packet import Packet
from segctl_agent.denials.pipeline import DenialPipeline
from segctl_agent.denials.prefix import Prefix
from segctl_agent.denials.values import Attribution, Denial, LoggedPacket, ProcessInfo


class Script:
    def __init__(self) -> None:
        self.missed = 0
        self.waiting: list[LoggedPacket] = []
        self.closed = False

    def start(self, loop: asyncio.AbstractEventLoop, on_packets: Callable[[list[LoggedPacket]], None]) -> None:
        raise AssertionError("the test calls take itself")

    def read(self, reads: int = 64) -> list[LoggedPacket]:
        packets, self.waiting = self.waiting, []
        return packets

    def close(self) -> None:
        self.closed = True


class Sets:
    """The last dump, when the pipeline is closed; the others the test hands over itself."""

    def __init__(self) -> None:
        self.last: dict[tuple[Direction, Version], list[Element]] = {}

    def read(self) -> dict[tuple[Direction, Version], list[Element]]:
        return self.last

    def close(self) -> None:
        pass


class Bench:
    def __init__(self, lookup_seconds: float = 0.0, sets: Sets | None = None) -> None:
        self.now = 100.0
        self.source = Script()
        self.told: list[tuple[list[Denial], int]] = []
        self.looked_up = 0
        self.batches = 0
        self.lookup_seconds = lookup_seconds
        self.pipeline = DenialPipeline(
            self.source,
            self.attribute,
            lambda d, lost: self.told.append((d, lost)),
            lambda: 5,
            sets=sets,
            name_of=lambda direction, mark: ("shop", "denied"),
            clock=lambda: self.now,
            cost=lambda: self.now,
        )

    @property
    def denials(self) -> list[Denial]:
        return [d for denials, _ in self.told for d in denials]

    def attribute(self, packets: Sequence[tuple[LoggedPacket, Packet]]) -> list[Attribution]:
        self.batches += 1
        self.now += self.lookup_seconds
        first, self.looked_up = self.looked_up + 1, self.looked_up + len(packets)
        return [Attribution(ProcessInfo(pid=pid)) for pid in range(first, self.looked_up + 1)]


def logged(port: int = 80, direction: str = "out", verdict: str = "deny", at_us: int = 1) -> LoggedPacket:
    ends = ip_address("192.0.2.1").packed + ip_address("198.51.100.2").packed
    payload = struct.pack(">BBHHHBBH", 0x45, 0, 0, 0, 0, 64, 17, 0) + ends + struct.pack(">HH", 40000, port)
    return LoggedPacket(Prefix(direction, verdict, "shop"), payload, 0, 0, at_us, 0, 0)  # type: ignore[arg-type]


def test_direction_and_verdict_tell_the_remote_end():
    bench = Bench()
    bench.pipeline.take([logged(), logged(direction="in", verdict="test")])
    ((out, incoming), lost) = bench.told[0]
    assert (out.ingress, out.verdict, str(out.remote), out.port, out.generation) == (
        False,
        "denied",
        "198.51.100.2",
        80,
        5,
    )
    assert (incoming.ingress, incoming.verdict, str(incoming.remote)) == (True, "would-deny", "192.0.2.1")
    assert lost == 0


def test_one_lookup_for_a_window_not_for_a_packet():
    bench = Bench()
    bench.pipeline.take([logged()] * 1000)
    assert bench.looked_up == 2
    bench.now += 1.5
    bench.pipeline.take([])
    assert [(d.count, d.process.pid) for denials, _ in bench.told for d in denials] == [(1, 1), (999, 2)]


def test_lookups_take_a_fifth_of_the_time_at_most():
    bench = Bench(lookup_seconds=0.05)
    bench.pipeline.take([logged(port) for port in range(1, 2001)])
    assert bench.batches <= 6
    waiting = 2000 - bench.looked_up
    assert len(bench.told[0][0]) == bench.looked_up
    assert waiting > 1000
    # What waits is looked up as time is earned, and after most of a second told without.
    bench.now += 1
    bench.pipeline.take([])
    denials = bench.told[-1][0]
    assert len([d for d in denials if d.count == 1]) == waiting
    busy = {d.process_unknown for d in denials} - {""}
    assert busy == {"too many denials at once to look up every process"}
    bench.now += 2
    bench.pipeline.take([logged(3000)])
    assert bench.told[-1][0][-1].process.pid == bench.looked_up


def test_what_cannot_be_read_or_was_missed_is_lost_once():
    bench = Bench()
    bench.pipeline.account({("out", "shop"): 0})
    bench.source.missed = 3
    bench.pipeline.take([logged()._replace(payload=b"?"), logged()])
    assert bench.told[0][1] == 4
    for _ in range(3):
        bench.pipeline.account({("out", "shop"): 7})
    assert sum(lost for _, lost in bench.told) + sum(d.count for ds, _ in bench.told for d in ds) == 7


def test_close_tells_the_rest():
    bench = Bench()
    bench.pipeline.take([logged(), logged()])
    bench.source.waiting = [logged()]
    bench.pipeline.close()
    assert sum(d.count for ds, _ in bench.told for d in ds) == 3
    assert bench.source.closed


def test_command_lines_cannot_write_to_a_terminal():
    assert printable(b"a\x1b[31m\xff\n\xc3\xa9") == "a\\x1b[31m\\xff\\né"
    assert len(printable("é".encode() * 300).encode()) <= 256
    assert printable("\u202e".encode()) == "\\u202e"


def test_units():
    assert unit_of("system.slice/nginx.service") == "nginx.service"
    assert unit_of("user.slice/user-1.slice/user@1.service/app.slice/x.service") == "user@1.service"
    assert unit_of("a.slice/b.slice") == ""
    assert unit_of("docker/0123") == ""


def counted(port: int, packets: int) -> Element:
    key = struct.pack("=I4sB3xH2x", 1, ip_address("198.51.100.2").packed, 17, socket.htons(port))
    return Element(key, packets, 60_000)


def test_what_was_only_counted_is_told_of_the_process_that_was_logged():
    bench = Bench(sets=Sets())
    bench.pipeline.counted({})
    bench.pipeline.take([logged(), logged()])
    for _ in range(2):
        assert bench.pipeline.counted({("out", 4): [counted(80, 1000)]}) is (bench.now == 100.0)
        bench.now += 1.1
        bench.pipeline.take([])
    bench.now += 1.1
    bench.pipeline.take([])
    assert sum(d.count for d in bench.denials) == 1000
    assert {d.process.pid for d in bench.denials} <= {1, 2}
    assert {lost for _, lost in bench.told} == {0}


def test_more_flows_than_keys_wait_for_their_turn_and_none_is_lost():
    bench = Bench(sets=Sets())
    flows = MAX_KEYS + 1000
    bench.pipeline.counted({})
    bench.pipeline.take([logged(port) for port in range(1, flows)])
    assert len(bench.denials) < flows - 1
    for _ in range(4):
        bench.pipeline.counted({("out", 4): [counted(port, 1) for port in range(1, flows)]})
        bench.now += 1.5
        bench.pipeline.take([])
    assert {d.port for d in bench.denials} == set(range(1, flows))
    assert sum(d.count for d in bench.denials) == flows - 1
    assert {lost for _, lost in bench.told} == {0}


def test_close_tells_what_was_counted_last():
    sets = Sets()
    bench = Bench(sets=sets)
    bench.pipeline.counted({})
    bench.pipeline.take([logged()])
    sets.last = {("out", 4): [counted(80, 7)]}
    bench.pipeline.close()
    assert sum(d.count for d in bench.denials) == 7
