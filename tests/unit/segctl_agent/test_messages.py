"""Denials as the controller gets them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from segctl.errors import WireError
from segctl.model.policy import PortRange
from segctl.proto.v1 import agent_pb2
from segctl.wire import denied_service_from_wire
from segctl_agent.denials.packet import Packet, parse_packet
from segctl_agent.denials.values import Denial, ProcessInfo
from segctl_agent.facts.values import ListenerFact
from segctl_agent.flows.values import FlowKey, FlowRow, FlowWindow
from segctl_agent.messages import MAX_FLOW_ROWS, denial_message, event_message, facts_message, flow_batches
from segctl_agent.nft.watch import TamperNotice

HEADER = bytes([0x45, 0, 0, 20, 0, 0, 0, 0, 64, 0, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2])


def seen(packet: Packet) -> agent_pb2.Denial:
    denial = Denial(
        ingress=False,
        verdict="denied",
        workload="host",
        remote=packet.destination,
        protocol=packet.protocol,
        port=packet.destination_port,
        process=ProcessInfo(user="root"),
        process_unknown="the kernel does not tell",
        count=3,
        first_seen_us=1,
        last_seen_us=2,
        generation=7,
    )
    return agent_pb2.Denial.FromString(denial_message(denial).SerializeToString())


@pytest.mark.parametrize("number", [n for n in range(256) if n not in (1, 6, 17, 58)])
def test_every_ip_protocol_has_a_name_on_the_wire(number: int) -> None:
    packet = parse_packet(HEADER[:9] + bytes([number]) + HEADER[10:] + bytes(8))
    assert packet is not None
    message = seen(packet)
    assert denied_service_from_wire(message.service) == PortRange("ip", number, number)
    assert (message.count, message.process.user, message.remote) == (3, "root", bytes([10, 0, 0, 2]))


@pytest.mark.parametrize(
    ("packet", "service"),
    [
        (Packet(ip_address("10.0.0.1"), ip_address("10.0.0.2"), "tcp", 1, 443), PortRange("tcp", 443, 443)),
        (Packet(ip_address("fe80::1"), ip_address("fe80::2"), "icmpv6", 0, 128), PortRange("icmpv6", 128, 128)),
    ],
)
def test_ports_and_types_stay_what_they_are(packet: Packet, service: PortRange) -> None:
    assert denied_service_from_wire(seen(packet).service) == service


@pytest.mark.parametrize(("protocol", "low", "high"), [("ip", 256, 256), ("ip", 1, 2), ("tcp", 1, 2), ("sctp", 1, 1)])
def test_what_no_denial_can_name_is_refused(protocol: str, low: int, high: int) -> None:
    message = agent_pb2.Denial()
    message.service.protocol, message.service.low, message.service.high = protocol, low, high
    with pytest.raises(WireError):
        denied_service_from_wire(message.service)


NO_TEXT = b"x\xff\xfe".decode("utf-8", "surrogateescape")
"""What Python makes of a process or a cgroup whose name is no UTF-8: any local user can have one."""


def test_a_name_that_is_no_text_reaches_the_controller_escaped() -> None:
    listener = ListenerFact("tcp", ip_address("10.0.0.1"), 80, 1000, 1, f"user.slice/{NO_TEXT}", NO_TEXT)
    facts = facts_message([], {}, [listener], None, "6.18")
    told = agent_pb2.Facts.FromString(facts.SerializeToString()).listeners[0]
    assert (told.process, told.cgroup) == (r"x\udcff\udcfe", r"user.slice/x\udcff\udcfe")
    process = ProcessInfo(7, NO_TEXT, NO_TEXT, NO_TEXT, NO_TEXT, NO_TEXT)
    address = ip_address("10.0.0.2")
    denial = Denial(False, "denied", "host", address, "tcp", 80, process, NO_TEXT, 1, 1, 2, 7)
    assert agent_pb2.Denial.FromString(denial_message(denial).SerializeToString()).process.cgroup == r"x\udcff\udcfe"
    assert event_message("tamper", NO_TEXT, 1, TamperNotice(1, 1, NO_TEXT)).message == r"x\udcff\udcfe"


def test_names_are_bounded_in_bytes() -> None:
    """The bound is on what travels: four bytes a character would make the facts larger than a message may be."""
    listener = ListenerFact("tcp", ip_address("10.0.0.1"), 80, 1000, 1, "\U0001f980" * 2000, "\U0001f980" * 2000)
    told = facts_message([], {}, [listener], None, "6.18").listeners[0]
    assert (len(told.cgroup.encode()), len(told.process.encode())) == (1024, 128)


def test_a_window_of_flows_is_told_in_columns() -> None:
    four, six = ip_address("10.0.0.2").packed, ip_address("fd00::2").packed
    rows = (
        FlowRow(
            FlowKey("out", "shop", four, 6, 5432, "to-db", "allowed", "unit:a.service"), 2, 10, 20, 1_000_000, 2_500_000
        ),
        FlowRow(FlowKey("in", "shop", six, 58, 128, "", "would-deny"), 1, 0, 0, 0, 1 << 60),
    )
    (told,) = flow_batches(FlowWindow(500_000, 3_000_000, rows, lost=7))
    told = agent_pb2.FlowBatch.FromString(told.SerializeToString())
    assert (told.from_us, told.until_us, told.lost) == (500_000, 3_000_000, 7)
    assert [told.workloads[i] for i in told.workload] == ["shop", "shop"]
    assert [told.rules[i] for i in told.rule] == ["to-db", ""]
    assert [told.processes[i] for i in told.process] == ["unit:a.service", ""]
    assert told.remotes == bytes(10) + b"\xff\xff" + four + six
    columns = (told.direction, told.protocol, told.port, told.flows, told.verdict, told.bytes_sent, told.bytes_received)
    assert [list(c) for c in columns] == [[0, 1], [6, 58], [5432, 128], [2, 1], [0, 1], [10, 0], [20, 0]]
    assert (list(told.first_ms), list(told.last_ms)) == ([500, 0], [2000, 0xFFFF_FFFF])


def test_a_large_window_comes_in_several_batches_and_what_was_lost_once() -> None:
    row = FlowRow(FlowKey("out", "shop", bytes(4), 6, 1, "", "observed"), 1, 0, 0, 0, 0)
    told = flow_batches(FlowWindow(0, 1, (row,) * (MAX_FLOW_ROWS + 1), lost=3))
    assert [(len(b.flows), len(b.remotes), b.lost) for b in told] == [
        (MAX_FLOW_ROWS, 16 * MAX_FLOW_ROWS, 3),
        (1, 16, 0),
    ]
    assert [b.lost for b in flow_batches(FlowWindow(0, 1, (), lost=2))] == [2]
    assert flow_batches(FlowWindow(0, 1, ())) == []
