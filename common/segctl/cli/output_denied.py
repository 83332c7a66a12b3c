"""Denied connections, one line each, made to be read while they scroll."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from segctl.cli.output import Cell, Line, Span, Style, dim, fit, line, note, printable, span, stamp, warn
from segctl.cli.views import Denial, Lost

NARROWEST = 80
UNWATCHED = 120
IP_PROTOCOLS = {
    "ip/2": "IGMP",
    "ip/4": "IPv4 in IP",
    "ip/41": "IPv6 in IP",
    "ip/47": "GRE",
    "ip/50": "ESP",
    "ip/51": "AH",
    "ip/89": "OSPF",
    "ip/103": "PIM",
    "ip/112": "VRRP",
    "ip/132": "SCTP",
}
"""https://www.iana.org/assignments/protocol-numbers"""
ARROWS = {"egress": "→", "ingress": "←"}


@dataclass(frozen=True, slots=True)
class Columns:
    """Widths in characters; time, arrow and count are fixed: 8, 1 and 6."""

    local: int
    peer: int
    service: int
    reason: int
    cut: bool = True

    @classmethod
    def of(cls, width: int) -> Columns:
        """Shares out a line of `width` (0: nobody watches, a wide layout): most to the process, then to the peer."""
        room = max(width or UNWATCHED, NARROWEST) - 8 - 1 - 6 - 6
        service = 11 if room < 90 else 16
        reason = 14 if room < 70 else 18 if room < 90 else 24
        left = room - service - reason
        local = left * 3 // 5
        return cls(local, left - local, service, reason, cut=bool(width))

    def lay(self, *cells: Cell) -> Line:
        """The cells of one row: time, local end, arrow, peer, service, reason, count. What does not fit is cut on a
        terminal, and shifts the rest where a program reads."""
        *texts, number = cells
        spans: list[Span] = []
        for cell, size in zip(texts, (8, self.local, 1, self.peer, self.service, self.reason), strict=True):
            spans += [fit(cell, size if self.cut else max(size, len(printable(span(cell).text)))), Span(" ")]
        return (*spans, fit(number, 6, right=True))


def heading(columns: Columns) -> Line:
    local = "HOST/WORKLOAD (PROCESS)" if columns.local > 22 else "HOST/WORKLOAD"
    return columns.lay(*(dim(text) for text in ("UTC", local, "", "PEER", "SERVICE", "REASON", "COUNT")))


def render_denial(d: Denial, columns: Columns, now: datetime, wide: bool = False, suggest: bool = False) -> list[Line]:
    """`wide` adds lines of detail, `suggest` the rule that would allow it. Times are UTC."""
    style = Style.WARN if d.verdict == "would-deny" else Style.BAD
    row = columns.lay(
        _when(d.last_seen, now),
        _local(d, columns.local if columns.cut else UNWATCHED),
        Span(ARROWS.get(d.direction, "?"), style),
        _peer(d),
        d.service_name or d.service,
        Span(_reason(d), style),
        str(d.count),
    )
    return [row, *(_details(d) if wide else []), *(_suggestion(d) if suggest else [])]


def render_lost(lost: Lost) -> list[Line]:
    if not lost.lost:
        return []
    return [line(warn(f"{lost.lost:,} more were denied and counted, but not described: too many at once"))]


def explain_command(d: Denial) -> str:
    """The command that explains this denial; its ends as the source and the destination of the connection."""
    # The unknown cgroup has no workload to ask about.
    here = f"{d.host}/{d.workload}" if d.workload not in {"", "?"} else d.host
    there = f"{d.peer_host}/{d.peer_workload}" if d.peer_host and d.peer_workload else d.peer_host or d.peer_address
    ends = (there, here) if d.direction == "ingress" else (here, there)
    return shlex.join(["segctl", "explain", *ends, d.service])


def _when(then: datetime | None, now: datetime) -> str:
    """The time of today, the day of anything older."""
    if then is None:
        return "?"
    return then.strftime("%H:%M:%S" if then.date() == now.date() else "%b %d")


def _local(d: Denial, width: int) -> str:
    """`web1/shop-web (curl 812 www-data)`: the host and the command are kept, the rest goes as the column narrows."""
    place = f"{d.host}/{d.workload}"
    p = d.process
    if p is None:
        return f"{place} (process not known)" if len(place) + 20 <= width else f"{place} (?)"
    name = p.exe.rsplit("/", 1)[-1] or p.command.split(" ")[0] or "?"
    options = [f"{name} {p.pid} {p.user} {p.unit}", f"{name} {p.pid} {p.user}", f"{name} {p.pid}", name]
    fitting = (f"{place} ({o.strip()})" for o in options if len(place) + len(o.strip()) + 3 <= width)
    return next(fitting, f"{place} ({name})")


def _peer(d: Denial) -> str:
    if not d.peer_host:
        return d.peer_address
    return f"{d.peer_host}/{d.peer_workload}" if d.peer_workload else d.peer_host


def _reason(d: Denial) -> str:
    """`no rule`, or the boundary; a verdict of the mode `test` says so, for nothing was dropped."""
    why = {"default": "no rule", "boundary": d.rule or "boundary"}.get(d.reason, d.rule or d.reason or "?")
    return f"test: {why}" if d.verdict == "would-deny" else why


def _details(d: Denial) -> list[Line]:
    p = d.process
    rows: list[tuple[str, Cell]] = []
    if p is None:
        rows.append(("process", warn(f"not known: {d.process_unknown or 'the agent gave no reason'}")))
    else:
        rows += [("process", f"{p.exe or '?'} (pid {p.pid}, user {p.user or '?'})"), ("command", p.command or "?")]
        rows.append(("unit", f"{p.unit or 'none'}  {p.cgroup}"))
    peer = d.peer_address + (f" {_tags(d.peer_tags)}" if d.peer_host else " (no enrolled host)")
    rows += [("tags", _tags(d.tags) or "none"), ("peer", peer)]
    named = f" ({d.service_name})" if d.service_name else ""
    rows.append(("service", f"{_protocol(d)}{named}, {d.verdict} by {d.reason or '?'} {d.rule}".rstrip()))
    rows.append(("seen", f"{_span(d.first_seen, d.last_seen)}, {d.count} times, generation {d.generation}"))
    lines = [line(" " * 9, dim(f"{label:<9}"), value) for label, value in rows]
    if d.service.startswith("ip/"):
        return lines  # nothing to explain: no rule can name it
    return [*lines, line(" " * 9, note(f"→ {explain_command(d)}"))]


def _suggestion(d: Denial) -> list[Line]:
    if d.service.startswith("ip/"):
        return [line(" " * 9, dim(f"no rule can allow {_protocol(d)} yet: rules know TCP, UDP and ICMP"))]
    if not d.suggestion:
        return [line(" " * 9, dim("no rule to suggest: "), dim(f"→ {explain_command(d)}"))]
    return [line(" " * 9, dim("this would allow it:")), *(line(" " * 9, note(x)) for x in d.suggestion.splitlines())]


def _protocol(d: Denial) -> str:
    """`ip/132 (SCTP)`, and every other service as it is."""
    name = IP_PROTOCOLS.get(d.service)
    return f"{d.service} ({name})" if name else d.service


def _tags(mapping: Mapping[str, str]) -> str:
    return " ".join(f"{k}={v}" for k, v in sorted(mapping.items()))


def _span(first: datetime | None, last: datetime | None) -> str:
    return stamp(last) if first == last else f"{stamp(first)} to {stamp(last)}"
