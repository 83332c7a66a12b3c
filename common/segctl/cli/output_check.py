"""Findings, as a compiler prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from segctl.cli.check_result import CheckResult
from segctl.cli.output import Line, Span, bad, bold, clip, count, dim, good, line, note, printable, warn, wrap
from segctl.model.findings import Finding, Severity

TAB = 4


def render_finding(finding: Finding, source: str | None, width: int) -> list[Line]:
    """`file:line:col: error: message (hint) [code]`, and below it the source line with a caret when it is given."""
    label = bad if finding.severity is Severity.ERROR else warn
    hint = f" ({finding.hint})" if finding.hint else ""
    place, code = f"{finding.position}: ", f" [{finding.code}]"
    lines = [line(bold(place), label(f"{finding.severity.value}: "), finding.message, hint, dim(code))]
    if width and sum(len(s.text) for s in lines[0]) > width:
        lines = _folded(finding, place, label(f"{finding.severity.value}: "), width)
    if source is not None:
        lines += _excerpt(source, finding.position.line, finding.position.column, width)
    return lines


def _folded(finding: Finding, place: str, label: Span, width: int) -> list[Line]:
    """The same on several lines of a terminal, the mend on its own."""
    margin = " " * TAB
    # The first line is wrapped with its head in place, which is then replaced by the styled one.
    head = "x" * (len(place) + len(label.text) - 1)
    first, *rest = wrap(f"{head} {finding.message}", width, TAB)
    lines = [line(bold(place), label, first.removeprefix(head).lstrip()), *(line(text) for text in rest)]
    mend = wrap(f"{finding.hint} [{finding.code}]".lstrip(), width - TAB - 2)
    return [*lines, *(line(margin, note("→ " if not i else "  "), text) for i, text in enumerate(mend))]


def _excerpt(source: str, number: int, column: int, width: int) -> list[Line]:
    margin = f"{number:>5} | "
    before = printable(source[: max(column - 1, 0)].expandtabs(TAB))
    text = printable(source.expandtabs(TAB))
    room = max(width - len(margin), 20) if width else 0
    # A long line is shown from where the caret can still be seen.
    start = max(len(before) - room // 2, 0) if room and len(text) > room else 0
    caret = " " * (len(before) - start) + "^"
    return [
        line(dim(margin), clip(text[start:], room)),
        line(dim(" " * (len(margin) - 2) + "| "), note(caret)),
    ]


def render_check(result: CheckResult, sources: Mapping[str, Sequence[str]], width: int) -> list[Line]:
    """`sources` maps a file name to its lines; empty where no excerpt is wanted."""
    lines: list[Line] = []
    for finding in result.findings:
        text = sources.get(finding.position.file, ())
        place = finding.position.line
        lines += render_finding(finding, text[place - 1] if 0 < place <= len(text) else None, width)
    if result.findings:
        lines.append(line())
    return [*lines, summary(result)]


def summary(result: CheckResult) -> Line:
    looked = count(result.files, "file")
    if result.hosts is not None:
        looked += f", {count(result.hosts, 'enrolled host')}"
    if not result.errors and not result.warnings:
        return line(good("ok"), f": nothing to complain about ({looked})")
    errors, warnings = count(result.errors, "error"), count(result.warnings, "warning")
    parts = [bad(errors) if result.errors else errors, warn(warnings) if result.warnings else warnings]
    return line(parts[0], ", ", parts[1], f" ({looked})")
