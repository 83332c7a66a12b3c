"""Denied connections, one line each, made to be read while they scroll."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from segctl.cli.output import Cell, Line, Span, Style, dim, fit, line, note, stamp, warn
from segctl.cli.views import Denial, Lost

NARROWEST = 80
UNWATCHED = 120
ARROWS = {"egress": "→", "ingress": "←"}


@dataclass(frozen=True, slots=True)
class Columns:
    """Widths in characters; time, arrow and count are fixed: 8, 1 and 6."""

    local: int
    peer: int
    service: int
    reason: int

    @classmethod
    def of(cls, width: int) -> Columns:
        """Shares out a line of `width` (0: nobody watches, a wide layout): most to the process, then to the peer."""
        room = max(width or UNWATCHED, NARROWEST) - 8 - 1 - 6 - 6
        service = 13 if room < 95 else 18
        reason = 14 if room < 95 else 22
        left = room - service - reason
        local = left * 3 // 5
        return cls(local, left - local, service, reason)


def heading(columns: Columns) -> Line:
    cells = (
        ("UTC", 8),
        ("HOST/WORKLOAD (PROCESS)", columns.local),
        ("", 1),
        ("PEER", columns.peer),
        ("SERVICE", columns.service),
        ("REASON", columns.reason),
    )
    return (*(s for text, size in cells for s in (fit(dim(text), size), Span(" "))), fit(dim("COUNT"), 6, True))


def render_denial(d: Denial, columns: Columns, now: datetime, wide: bool = False, suggest: bool = False) -> list[Line]:
    """`wide` adds lines of detail, `suggest` the rule that would allow it. Times are UTC."""
    style = Style.WARN if d.verdict == "would-deny" else Style.BAD
    cells: tuple[tuple[Cell, int], ...] = (
        (_when(d.last_seen, now), 8),
        (_local(d, columns.local), columns.local),
        (Span(ARROWS.get(d.direction, "?"), style), 1),
        (_peer(d), columns.peer),
        (d.service_name or d.service, columns.service),
        (Span(_reason(d), style), columns.reason),
    )
    row = (*(s for cell, size in cells for s in (fit(cell, size), Span(" "))), fit(str(d.count), 6, True))
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
    rows.append(("service", f"{d.service}{named}, {d.verdict} by {d.reason or '?'} {d.rule}".rstrip()))
    rows.append(("seen", f"{_span(d.first_seen, d.last_seen)}, {d.count} times, generation {d.generation}"))
    return [
        *(line(" " * 9, dim(f"{label:<9}"), value) for label, value in rows),
        line(" " * 9, note(f"→ {explain_command(d)}")),
    ]


def _suggestion(d: Denial) -> list[Line]:
    if not d.suggestion:
        return [line(" " * 9, dim("no rule to suggest: "), dim(f"→ {explain_command(d)}"))]
    return [line(" " * 9, dim("this would allow it:")), *(line(" " * 9, note(x)) for x in d.suggestion.splitlines())]


def _tags(mapping: Mapping[str, str]) -> str:
    return " ".join(f"{k}={v}" for k, v in sorted(mapping.items()))


def _span(first: datetime | None, last: datetime | None) -> str:
    return stamp(last) if first == last else f"{stamp(first)} to {stamp(last)}"
