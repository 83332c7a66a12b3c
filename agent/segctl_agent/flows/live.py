"""The live flows of a dump, and whether a policy lets them live on. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from segctl_agent.conntrack.values import TCP, TCP_OVER, ConntrackRow
from segctl_agent.facts.values import Address
from segctl_agent.flows.permits import PolicyIndex
from segctl_agent.flows.values import Marks, Side, side, turned
from segctl_agent.identity import Direction


@dataclass(frozen=True, slots=True)
class LiveFlow:
    """One half of a flow: the decision `number` let it pass in `direction`."""

    row: ConntrackRow
    direction: Direction
    number: int
    loose: bool

    def judged_as(self) -> Iterator[tuple[Direction, Side]]:
        """As a hook of this host sees it; a session older than the table also the other way round."""
        yield self.direction, side(self.row, self.direction)
        if self.loose and self.row.protocol == TCP:
            other: Direction = "in" if self.direction == "out" else "out"
            yield other, side(turned(self.row), other)

    def socket_ends(self) -> tuple[tuple[Address, int], tuple[Address, int]]:
        """(local, remote) as the local socket knows them: a sender never learns of its destination's NAT."""
        row = self.row
        if self.direction == "out":
            near, far = (row.source, row.source_port), (row.destination, row.destination_port)
        else:
            near, far = (row.reply_source, row.reply_source_port), (row.reply_destination, row.reply_destination_port)
        return (ip_address(near[0]), near[1]), (ip_address(far[0]), far[1])


def live_flows(dump: Iterable[Sequence[ConntrackRow]], marks: Marks) -> Iterator[LiveFlow]:
    """Every half that a decision let pass. TCP connections that are over are left out; of UDP and ICMP nobody knows
    before conntrack forgets them."""
    for rows in dump:
        for row in rows:
            if row.protocol == TCP and row.tcp_state in TCP_OVER:
                continue
            outgoing, incoming, loose = marks.out_id(row.mark), marks.in_id(row.mark), marks.loose(row.mark)
            if outgoing:
                yield LiveFlow(row, "out", outgoing, loose)
            if incoming:
                yield LiveFlow(row, "in", incoming, loose)


def passes(flow: LiveFlow, workload: str, index: PolicyIndex, now: float) -> bool:
    """Whether this policy lets a flow of `workload` live on, as an essential, by a rule, or by its mode."""
    return any(
        index.essential(direction, seen.remote, flow.row.protocol, seen.service)
        or index.judge(direction, workload, seen.remote, flow.row.protocol, seen.service, now).passes
        for direction, seen in flow.judged_as()
    )
