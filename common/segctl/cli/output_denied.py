"""Denied connections, one line each, made to be read while they scroll."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from segctl.cli.output import Cell, Line, Span, Style, clip, dim, fit, line, note, printable, span, stamp, warn
from segctl.cli.views import Denial, Lost, Process

NARROWEST = 80
LONG_HEADING, SHORT_HEADING = "HOST/WORKLOAD (PROCESS)", "HOST/WORKLOAD"
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
IPV6 = " [v6]"
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
        """Shares out a line of `width` (0: nobody watches, a wide layout) before any row is known: most to the process,
        then to the peer."""
        room = _room(width or UNWATCHED)
        service = 10 if room < 70 else 11 if room < 90 else 16
        reason = 11 if room < 70 else 18 if room < 90 else 24
        left = room - service - reason
        local = left * 3 // 5
        return cls(local, left - local, service, reason, cut=bool(width))

    @classmethod
    def fitting(cls, denials: Sequence[Denial], width: int) -> Columns:
        """As wide as the rows need. Beyond `width` (0: no limit) what can be spared of the process gives way first."""
        places = [_places(d) for d in denials]
        sizes = {
            "local": _longest(LONG_HEADING, *(options[0] for options in places)),
            "peer": _longest("PEER", *(_peer(d, 0) for d in denials)),
            "service": _longest("SERVICE", *(d.service_name or d.service for d in denials)),
            "reason": _longest("REASON", *(_reason(d) for d in denials)),
        }
        shortest = _longest(SHORT_HEADING, *(options[-1] for options in places))
        over = sum(sizes.values()) - _room(width) if width else 0
        for column, least in (("local", shortest), ("reason", 11), ("peer", 16), ("service", 10), ("local", 12)):
            given = max(min(over, sizes[column] - least), 0)
            sizes[column] -= given
            over -= given
        return cls(**sizes, cut=bool(width))

    def lay(self, *cells: Cell) -> Line:
        """The cells of one row: time, local end, arrow, peer, service, reason, count. What does not fit is cut on a
        terminal, and shifts the rest where a program reads."""
        *texts, number = cells
        spans: list[Span] = []
        for cell, size in zip(texts, (8, self.local, 1, self.peer, self.service, self.reason), strict=True):
            spans += [fit(cell, size if self.cut else max(size, len(printable(span(cell).text)))), Span(" ")]
        return (*spans, fit(number, 6, right=True))


def heading(columns: Columns) -> Line:
    local = LONG_HEADING if columns.local >= len(LONG_HEADING) else SHORT_HEADING
    return columns.lay(*(dim(text) for text in ("UTC", local, "", "PEER", "SERVICE", "REASON", "COUNT")))


def render_denial(d: Denial, columns: Columns, now: datetime, wide: bool = False, suggest: bool = False) -> list[Line]:
    """`wide` adds lines of detail, `suggest` the rule that would allow it. Times are UTC."""
    style = Style.WARN if d.verdict == "would-deny" else Style.BAD
    row = columns.lay(
        _when(d.last_seen, now),
        _local(d, columns.local if columns.cut else 0),
        Span(ARROWS.get(d.direction, "?"), style),
        _peer(d, columns.peer if columns.cut else 0),
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


def _room(width: int) -> int:
    """What the four columns without a fixed width share."""
    return max(width, NARROWEST) - 8 - 1 - 6 - 6


def _longest(*texts: str) -> int:
    return max(len(printable(text)) for text in texts)


def _when(then: datetime | None, now: datetime) -> str:
    """The time of today, the day of anything older."""
    if then is None:
        return "?"
    return then.strftime("%H:%M:%S" if then.date() == now.date() else "%b %d")


def _local(d: Denial, width: int) -> str:
    """The longest of `_places` that fits `width` (0: no limit), else the shortest, to be cut."""
    options = _places(d)
    return next((text for text in options if not width or len(printable(text)) <= width), options[-1])


def _places(d: Denial) -> tuple[str, ...]:
    """The local end from the longest to the shortest text. Of `host` it keeps the unit, which tells its many processes
    apart (`web1/host cron.service`), of other workloads the program (`web1/shop-web (curl)`)."""
    place = f"{d.host}/{d.workload}"
    p = d.process
    if p is None:
        return f"{place} (process not known)", f"{place} (?)"
    name = program(p)
    who = tuple(" ".join(part for part in parts if part) for parts in ((name, str(p.pid), p.user), (name, str(p.pid))))
    if d.workload == "host" and p.unit:
        return (*(f"{place} {p.unit} ({text})" for text in (*who, name)), f"{place} {p.unit}")
    return (*(f"{place} ({text})" for text in (f"{who[0]} {p.unit}".rstrip(), *who, name)),)


def program(process: Process) -> str:
    return process.exe.rsplit("/", 1)[-1] or process.command.split(" ")[0] or "?"


def _peer(d: Denial, width: int) -> str:
    """The peer in at most `width` characters (0: no limit). Where its name hides the family, IPv6 is marked."""
    if not d.peer_host:
        return d.peer_address
    name = f"{d.peer_host}/{d.peer_workload}" if d.peer_workload else d.peer_host
    if ":" not in d.peer_address:
        return name
    return clip(name, max(width - len(IPV6), 1) if width else 0) + IPV6


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
    rows.append(("seen", f"{_span(d.first_seen, d.last_seen)}, {_times(d.count)}, generation {d.generation}"))
    lines = [line(" " * 9, dim(f"{label:<9}"), value) for label, value in rows]
    if d.service.startswith("ip/"):
        return lines  # nothing to explain: no rule can name it
    return [*lines, line(" " * 9, note(f"→ {explain_command(d)}"))]


def _suggestion(d: Denial) -> list[Line]:
    if d.service.startswith("ip/"):
        return [line(" " * 9, dim(f"no rule can allow {_protocol(d)} yet: rules know TCP, UDP and ICMP"))]
    lines = d.suggestion.splitlines()
    if lines and all(text.startswith("# ") for text in lines):
        return [line(" " * 9, dim("no rule to suggest: "), note(text.removeprefix("# "))) for text in lines]
    if not lines:
        return [line(" " * 9, dim("no rule to suggest: "), dim(f"→ {explain_command(d)}"))]
    return [line(" " * 9, dim("this would allow it:")), *(line(" " * 9, note(x)) for x in lines)]


def _protocol(d: Denial) -> str:
    """`ip/132 (SCTP)`, and every other service as it is."""
    name = IP_PROTOCOLS.get(d.service)
    return f"{d.service} ({name})" if name else d.service


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def _tags(mapping: Mapping[str, str]) -> str:
    return " ".join(f"{k}={v}" for k, v in sorted(mapping.items()))


def _span(first: datetime | None, last: datetime | None) -> str:
    return stamp(last) if first == last else f"{stamp(first)} to {stamp(last)}"
