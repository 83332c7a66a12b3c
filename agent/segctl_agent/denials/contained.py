"""Who is behind a denied packet of a container with a network of its own: the container, by its address.

Its process is not asked for: its socket is in another network namespace, which the agent does not enter (that takes
CAP_SYS_ADMIN).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from segctl_agent.denials.packet import Packet
from segctl_agent.denials.values import Attribution, LoggedPacket, ProcessInfo
from segctl_agent.facts.values import Address, ContainerFact

UNKNOWN_PROCESS = "a container's sockets are in a network of its own, which the agent does not enter"
UNKNOWN_CONTAINER = "no container is known by this address yet"

Attribute = Callable[[Sequence[tuple[LoggedPacket, Packet]]], list[Attribution]]


class ContainedAttributor:
    """Answers for containers, and asks `otherwise` about everything else. `containers` are those of HostFacts."""

    def __init__(self, containers: Callable[[], Iterable[ContainerFact]], otherwise: Attribute) -> None:
        self._containers, self._otherwise = containers, otherwise

    def attribute_many(self, packets: Sequence[tuple[LoggedPacket, Packet]]) -> list[Attribution]:
        by_address = {address: c for c in self._containers() for address in c.addresses}
        contained = [_contained(by_address, logged, packet) for logged, packet in packets]
        rest = [pair for pair, found in zip(packets, contained, strict=True) if found is None]
        others = iter(self._otherwise(rest) if rest else ())
        return [next(others) if found is None else found for found in contained]


def _contained(by_address: Mapping[Address, ContainerFact], logged: LoggedPacket, packet: Packet) -> Attribution | None:
    """None for what belongs to a socket of this host."""
    outgoing = logged.prefix.direction == "out"
    container = by_address.get(packet.source if outgoing else packet.destination)
    if container is not None:
        who = ProcessInfo(unit=f"container:{container.name}", cgroup=container.cgroup)
        return Attribution(who, UNKNOWN_PROCESS)
    # What this host sends has no interface that it came in by, what it receives none that it goes out by.
    foreign = logged.input_interface if outgoing else logged.output_interface
    return Attribution(unknown=UNKNOWN_CONTAINER) if foreign else None
