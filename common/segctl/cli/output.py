"""Lines of styled text as values: made by pure functions, painted at the very end by the terminal.

Everything that came from a host or a file passes `printable` on its way out, so a process that names itself with
escape sequences cannot drive the operator's terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

UTC = UTC


class Style(Enum):
    """The SGR parameters of each meaning (ECMA-48 8.3.117)."""

    PLAIN = ""
    BOLD = "1"
    DIM = "2"
    GOOD = "32"
    BAD = "1;31"
    WARN = "33"
    NOTE = "36"


@dataclass(frozen=True, slots=True)
class Span:
    text: str
    style: Style = Style.PLAIN


LAST_AT_LEAST = 12
Line = tuple[Span, ...]
Cell = str | Span


def span(cell: Cell) -> Span:
    return cell if isinstance(cell, Span) else Span(cell)


def line(*cells: Cell) -> Line:
    return tuple(span(c) for c in cells)


def bold(text: str) -> Span:
    return Span(text, Style.BOLD)


def dim(text: str) -> Span:
    return Span(text, Style.DIM)


def good(text: str) -> Span:
    return Span(text, Style.GOOD)


def bad(text: str) -> Span:
    return Span(text, Style.BAD)


def warn(text: str) -> Span:
    return Span(text, Style.WARN)


def note(text: str) -> Span:
    return Span(text, Style.NOTE)


def printable(text: str) -> str:
    """`text` with everything but blanks and printable characters (str.isprintable) written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def paint(spans: Line, colour: bool) -> str:
    """One line of text, without its newline and without blanks at the end."""
    pieces = [(printable(s.text), s.style) for s in spans]
    while pieces and not pieces[-1][0].strip():
        pieces.pop()
    if pieces:
        pieces[-1] = (pieces[-1][0].rstrip(), pieces[-1][1])
    if not colour:
        return "".join(text for text, _ in pieces)
    return "".join(f"\x1b[{style.value}m{text}\x1b[0m" if style.value else text for text, style in pieces)


def plain(lines: Iterable[Line]) -> str:
    """The lines without colour, each ended by a newline: what a file or a pipe receives."""
    return "".join(paint(spans, colour=False) + "\n" for spans in lines)


def clip(text: str, width: int) -> str:
    """At most `width` characters, the last one an ellipsis when something was cut. Width 0 cuts nothing."""
    text = printable(text)
    if width <= 0 or len(text) <= width:
        return text
    return text[: width - 1] + "…"


def fit(cell: Cell, width: int, right: bool = False) -> Span:
    """The cell clipped and padded to exactly `width` characters."""
    styled = span(cell)
    text = clip(styled.text, width)
    return Span(text.rjust(width) if right else text.ljust(width), styled.style)


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    width: int = 0,
    gap: int = 2,
    indent: int = 0,
    last_gives: bool = False,
    right: Sequence[str] = (),
) -> list[Line]:
    """Columns as wide as their content, those with a header in `right` aligned there. When that exceeds `width` the
    widest give way (the last one first, if `last_gives`), down to a few characters. Width 0: no limit."""
    if not rows:
        return []
    cells = [[Span(printable(span(c).text), span(c).style) for c in row] for row in rows]
    widths = [max(len(h), *(len(row[i].text) for row in cells)) for i, h in enumerate(headers)]
    limit = width - indent - gap * (len(headers) - 1)
    if width and last_gives:
        widths[-1] = min(widths[-1], max(limit - sum(widths[:-1]), LAST_AT_LEAST))
    while width and sum(widths) > limit and max(widths) > 8:
        widths[widths.index(max(widths))] -= 1
    blank, pad = Span(" " * gap), Span(" " * indent)

    def laid(row: Sequence[Span]) -> Line:
        spans = [pad] if indent else []
        for i, cell in enumerate(row):
            spans += [fit(cell, widths[i], headers[i] in right), blank]
        return tuple(spans)

    head = [laid([dim(h) for h in headers])] if any(headers) else []
    return head + [laid(row) for row in cells]


def wrap(text: str, width: int, indent: int = 0) -> list[str]:
    """Words of `text` on lines of at most `width` characters, lines after the first indented. Width 0: one line."""
    if width <= 0:
        return [text]
    lines: list[str] = []
    current = ""
    for word in text.split():
        if current and len(current) + 1 + len(word) > width:
            lines.append(current)
            current = " " * indent + word
        else:
            current = f"{current} {word}" if current else word
    return [*lines, current]


def count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def size(octets: int) -> str:
    """`0 B`, `840 B`, `1.2 kB`, `15 MB`: powers of 1000."""
    amount = float(octets)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 999.5:
            return f"{amount:.1f} {unit}" if unit != "B" and amount < 9.95 else f"{amount:.0f} {unit}"
        amount /= 1000
    return f"{amount:,.0f} PB"


def span_of_time(seconds: float) -> str:
    """A duration in one or two words: `840 ms`, `12 s`, `5 min`, `3 h`, `2 days`."""
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    for limit, unit, name in ((100, 1, "s"), (6000, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} days"


def ago(then: datetime | None, now: datetime) -> str:
    if then is None:
        return "never"
    seconds = (now - then).total_seconds()
    return "just now" if seconds < 1 else f"{span_of_time(seconds)} ago"


def ahead(then: datetime | None, now: datetime) -> str:
    if then is None:
        return "never"
    seconds = (then - now).total_seconds()
    return "expired" if seconds <= 0 else f"in {span_of_time(seconds)}"


def stamp(then: datetime | None) -> str:
    """A whole date and time, UTC."""
    return then.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if then else "-"
