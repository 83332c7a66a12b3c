"""The live flows of a dump, and whether a policy lets them live on. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from segctl_agent.conntrack.values import TCP, TCP_OVER, ConntrackRow
from segctl_agent.facts.values import Address
from segctl_agent.flows.decisions import DecisionId
from segctl_agent.flows.permits import PolicyIndex
from segctl_agent.flows.values import Marks, Side, sides
from segctl_agent.identity import Direction

End = tuple[Address, int]


@dataclass(frozen=True, slots=True)
class LiveFlow:
    """One half of a flow: the decision `number` let it pass in `direction`."""

    row: ConntrackRow
    direction: Direction
    number: int
    loose: bool

    def judged_as(self) -> Iterator[tuple[Direction, Side]]:
        return sides(self.row, self.direction, loose=self.loose)

    def socket_ends(self) -> Iterator[tuple[End, End]]:
        """(local, remote) as the local socket may know them: a sender never learns of its destination's NAT."""
        row = self.row
        sent = (ip_address(row.source), row.source_port), (ip_address(row.destination), row.destination_port)
        served = (
            (ip_address(row.reply_source), row.reply_source_port),
            (ip_address(row.reply_destination), row.reply_destination_port),
        )
        both = (sent, served) if self.direction == "out" else (served, sent)
        return iter(both if self.loose else both[:1])


def live_flows(dump: Iterable[Sequence[ConntrackRow]], marks: Marks) -> Iterator[LiveFlow]:
    """Every half that a decision let pass. TCP connections that are over are left out; of UDP and ICMP nobody knows
    before conntrack forgets them."""
    read: dict[int, tuple[int, int, bool]] = {}
    for rows in dump:
        for row in rows:
            if row.protocol == TCP and row.tcp_state in TCP_OVER:
                continue
            halves = read.get(row.mark)
            if halves is None:
                halves = read[row.mark] = marks.out_id(row.mark), marks.in_id(row.mark), marks.loose(row.mark)
            outgoing, incoming, loose = halves
            if outgoing:
                yield LiveFlow(row, "out", outgoing, loose)
            if incoming:
                yield LiveFlow(row, "in", incoming, loose)


def ids_in_use(dump: Iterable[Sequence[ConntrackRow]], marks: Marks) -> frozenset[DecisionId]:
    """The ids that flows bear, dead or live: only another may be given anew. Of a whole dump, about 10 ms and 4 us a
    flow."""
    found = {row.mark for rows in dump for row in rows}
    out: set[DecisionId] = {("out", marks.out_id(mark)) for mark in found}
    out |= {("in", marks.in_id(mark)) for mark in found}
    return frozenset(out - {("out", 0), ("in", 0)})


def passes(flow: LiveFlow, workload: str, index: PolicyIndex, now: float) -> bool:
    """Whether this policy lets a flow of `workload` live on, as an essential, by a rule, or by its mode."""
    return any(
        index.essential(direction, seen.remote, flow.row.protocol, seen.service)
        or index.judge(direction, workload, seen.remote, flow.row.protocol, seen.service, now).passes
        for direction, seen in flow.judged_as()
    )
