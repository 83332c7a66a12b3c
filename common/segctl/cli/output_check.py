"""Findings, as a compiler prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from segctl.cli.output import Line, bad, bold, clip, count, dim, good, line, note, printable, warn
from segctl.cli.views import CheckResult
from segctl.model.findings import Finding, Severity

TAB = 4


def render_finding(finding: Finding, source: str | None, width: int) -> list[Line]:
    """`file:line:col: error: message (hint) [code]`, and below it the source line with a caret when it is given."""
    label = bad if finding.severity is Severity.ERROR else warn
    hint = f" ({finding.hint})" if finding.hint else ""
    lines = [
        line(
            bold(f"{finding.position}: "),
            label(f"{finding.severity.value}: "),
            finding.message,
            hint,
            dim(f" [{finding.code}]"),
        )
    ]
    if source is not None:
        lines += _excerpt(source, finding.position.line, finding.position.column, width)
    return lines


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
