"""Denied packets of containers are theirs by address; everything else is asked of the host's sockets."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Literal

from segctl_agent.denials.contained import UNKNOWN_CONTAINER, UNKNOWN_PROCESS, ContainedAttributor
from segctl_agent.denials.packet import Packet
from segctl_agent.denials.prefix import decode
from segctl_agent.denials.values import Attribution, LoggedPacket, ProcessInfo
from segctl_agent.facts.values import ContainerFact

WEB = ContainerFact("ab" * 32, "web1", "machine.slice/libpod-x.scope", 7, (ip_address("10.88.0.6"),))
OTHERWISE = Attribution(unknown="asked of the sockets")


def ask(direction: Literal["in", "out"], source: str, destination: str, came_by: int, goes_by: int) -> Attribution:
    prefix = decode(f"segctl 1 {direction} deny web")
    assert prefix is not None
    logged = LoggedPacket(prefix, b"", None, None, 0, came_by, goes_by)
    packet = Packet(ip_address(source), ip_address(destination), "tcp", 40000, 443)
    contained = ContainedAttributor(lambda: (WEB,), lambda packets: [OTHERWISE] * len(packets))
    return contained.attribute_many([(logged, packet)])[0]


def test_a_container_is_named_at_either_end() -> None:
    named = Attribution(ProcessInfo(unit="container:web1", cgroup=WEB.cgroup), UNKNOWN_PROCESS)
    assert ask("out", "10.88.0.6", "192.0.2.1", 4, 2) == named
    assert ask("in", "192.0.2.1", "10.88.0.6", 2, 4) == named


def test_what_the_host_itself_sends_and_receives_is_asked_of_its_sockets() -> None:
    assert ask("out", "10.0.0.9", "10.88.0.6", 0, 4) == OTHERWISE
    assert ask("in", "10.88.0.6", "10.0.0.9", 4, 0) == OTHERWISE


def test_a_container_that_is_not_known_yet() -> None:
    assert ask("out", "10.88.0.7", "192.0.2.1", 4, 2).unknown == UNKNOWN_CONTAINER


def test_each_answer_stands_at_its_packets_place() -> None:
    prefix = decode("segctl 1 out deny web")
    assert prefix is not None
    packets = [
        (LoggedPacket(prefix, b"", None, None, 0, came_by, 2), Packet(ip_address(source), WEB.addresses[0], "tcp"))
        for source, came_by in (("10.0.0.9", 0), ("10.88.0.6", 4), ("10.0.0.8", 0))
    ]
    asked: list[int] = []

    def otherwise(rest: Sequence[tuple[LoggedPacket, Packet]]) -> list[Attribution]:
        asked.append(len(rest))
        return [Attribution(unknown=str(packet.source)) for _, packet in rest]

    found = ContainedAttributor(lambda: (WEB,), otherwise).attribute_many(packets)
    assert [a.unknown for a in found] == ["10.0.0.9", UNKNOWN_PROCESS, "10.0.0.8"]
    assert asked == [2]
