"""What a conntrack entry is in terms of the policy: which decision let it pass, and what that decision judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from segctl_agent.conntrack.values import ICMP, ICMPV6, TCP, UDP, ConntrackRow
from segctl_agent.identity import Direction

ESSENTIALS: Final = ""
"""The workload of the decisions about what passes before any workload is asked (ADR 9)."""

Verdict = Literal["allowed", "would-deny", "observed"]
VERDICTS: Final[tuple[Verdict, ...]] = ("allowed", "would-deny", "observed")
"""In the order of their numbers in a FlowBatch."""

PROTOCOL_NAMES: Final = {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPV6: "icmpv6"}


class Marks(Protocol):
    """How a conntrack mark is read: segctl_agent.render.marks.MarkLayout. An id of 0 is none."""

    @property
    def out_mask(self) -> int: ...

    @property
    def in_mask(self) -> int: ...

    def out_id(self, mark: int) -> int: ...

    def in_id(self, mark: int) -> int: ...

    def loose(self, mark: int) -> bool: ...


class Side(NamedTuple):
    """A flow as a hook of this host judged it. `service` is the port that the policy decided about, after destination
    NAT; `port` the one on the wire: the same, but for a port that this host redirects. Both are the type for ICMP."""

    remote: bytes
    service: int
    port: int
    remote_port: int
    local_port: int


def side(row: ConntrackRow, direction: Direction) -> Side:
    """Outgoing, the wire and the hook see the destination that NAT chose. Incoming, the source that came in. Two hosts
    thus tell of one flow in the same words."""
    if row.protocol in (ICMP, ICMPV6):
        remote = row.reply_source if direction == "out" else row.source
        return Side(remote, row.destination_port, row.destination_port, 0, 0)
    if direction == "out":
        service = row.reply_source_port
        return Side(row.reply_source, service, service, service, row.source_port)
    return Side(row.source, row.reply_source_port, row.destination_port, row.source_port, row.reply_source_port)


def sides(row: ConntrackRow, direction: Direction, *, loose: bool) -> Iterator[tuple[Direction, Side]]:
    """As which flow a hook of this host may have judged it. conntrack takes whoever speaks first for the client; of a
    session older than the table (`loose`) that may be the server: then its ends are exchanged, and the decision is the
    other direction's, or was taken the other way round."""
    return ((way, side(seen, way)) for way, seen in ways(row, direction, loose=loose))


def ways(row: ConntrackRow, direction: Direction, *, loose: bool) -> Iterator[tuple[Direction, ConntrackRow]]:
    """The same as directions and entries."""
    yield direction, row
    if loose and row.protocol == TCP:
        back = turned(row)
        yield direction, back
        yield ("in" if direction == "out" else "out"), back


def turned(row: ConntrackRow) -> ConntrackRow:
    """The same flow with its ends exchanged."""
    return row._replace(
        source=row.reply_source,
        destination=row.reply_destination,
        source_port=row.reply_source_port,
        destination_port=row.reply_destination_port,
        reply_source=row.source,
        reply_destination=row.destination,
        reply_source_port=row.source_port,
        reply_destination_port=row.destination_port,
    )


@dataclass(frozen=True, slots=True, order=True)
class FlowKey:
    """What the flows of one row have in common. `remote`: 4 or 16 bytes; `protocol`: an IP protocol number; `port`:
    the service's on the wire, or the ICMP type. `rule`: "" where none permits it and the mode let it pass. `process`:
    its identity (segctl.model.processes), "" where it is not known."""

    direction: Direction
    workload: str
    remote: bytes
    protocol: int
    port: int
    rule: str
    verdict: Verdict
    process: str = ""


@dataclass(frozen=True, slots=True)
class FlowRow:
    """`flows` began in the window. Bytes are those of the window, 0 where the kernel does not count. Times are Unix
    microseconds, as fine as the dumps are apart. `answered`: not only TCP connections that nobody took."""

    key: FlowKey
    flows: int
    bytes_sent: int
    bytes_received: int
    first_us: int
    last_us: int
    answered: bool = True


@dataclass(frozen=True, slots=True)
class FlowWindow:
    """Between two dumps. `lost`: flows that were seen in this window and are in none of its rows for want of room."""

    from_us: int
    until_us: int
    rows: tuple[FlowRow, ...]
    lost: int = 0
