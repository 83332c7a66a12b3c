"""What is wrong, for people: one problem for all hosts that have it, what to do behind an arrow, and recent events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from segctl.cli.output import (
    LAST_AT_LEAST,
    Cell,
    Line,
    Style,
    ago,
    bad,
    bold,
    count,
    dim,
    line,
    note,
    printable,
    span,
    table,
    warn,
    wrap,
)
from segctl.cli.views import Event, Host, Trouble

STATES = {
    "released": Style.BAD,
    "refused": Style.BAD,
    "offline": Style.WARN,
    "pending": Style.WARN,
    "never-connected": Style.WARN,
    "in-sync": Style.GOOD,
}
"""The worst first."""
EVENTS_SHOWN = 10
MOST_NAMED = 5


def unwell(host: Host) -> bool:
    return host.state != "in-sync" or bool(host.troubles)


def urgency(host: Host) -> tuple[int, str]:
    rank = list(STATES).index(host.state) if host.state in STATES else 0
    return (rank if host.state != "in-sync" or not host.troubles else -1, host.name)


def named(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """`a, b and 3 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def render_troubles(hosts: Sequence[Host], width: int, most: int = 0) -> list[Line]:
    """The worst first; those that several hosts have once, with a count. At most `most` of them; 0: all."""
    groups: dict[Trouble, list[str]] = {}
    for host in sorted(hosts, key=urgency):
        for trouble in host.troubles:
            groups.setdefault(trouble, []).append(host.name)
    shown = list(groups.items())[: most or None]
    if not shown:
        return []
    lines: list[Line] = [line(), line(bold("Problems"))]
    labels = [names[0] if len(names) == 1 else count(len(names), "host") for _, names in shown]
    margin = max(map(len, labels))
    for label, (trouble, names) in zip(labels, shown, strict=True):
        room = width - margin - 4 if width else 0
        first, *rest = wrap(trouble.text, room)
        lines.append(line("  ", bad(label.ljust(margin)), "  ", first))
        blank = " " * (margin + 4)
        lines += [line(blank, text) for text in rest]
        if len(names) > 1:
            lines += [line(blank, dim(text)) for text in wrap(named(names), room)]
        if trouble.next:
            steps = wrap(trouble.next, room - 2 if room else 0)
            lines += [line(blank, note("→ ") if not i else "  ", text) for i, text in enumerate(steps)]
    if len(groups) > len(shown):
        more = count(len(groups) - len(shown), "more problem")
        lines.append(line("  ", dim(f"and {more}: segctl status --all")))
    return lines


def render_events(events: Sequence[Event], now: datetime, width: int, most: int = EVENTS_SHOWN) -> list[Line]:
    if not events:
        return []
    lines = [line(), line(bold("Recent events"))]
    newest = sorted(events, key=lambda e: e.at.timestamp() if e.at else 0.0, reverse=True)[:most]
    rows: list[list[Cell]] = [[ago(e.at, now), e.host, warn(e.kind), e.message] for e in newest]
    return lines + table([""] * 4, _folded(rows, width - 2), 0, indent=2)


def _folded(rows: Sequence[Sequence[Cell]], width: int) -> list[list[Cell]]:
    """The rows with the last cell, a sentence, wrapped onto rows of its own. A width below 0: as they are."""
    taken = sum(max(len(printable(span(row[i]).text)) for row in rows) + 2 for i in range(3))
    folded: list[list[Cell]] = []
    for row in rows:
        first, *rest = wrap(span(row[-1]).text, max(width - taken, LAST_AT_LEAST) if width > 0 else 0)
        more: list[list[Cell]] = [["", "", "", text] for text in rest]
        folded += [[*row[:-1], first], *more]
    return folded
