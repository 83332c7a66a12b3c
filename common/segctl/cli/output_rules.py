"""What is wrong with rules, each with its mend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from segctl.cli.output import Line, Span, bad, bold, count, dim, line, note, warn, wrap
from segctl.cli.views_life import RuleFinding, RuleUse

INDENT = 16
"""Columns before the words of a finding: its kind stands there."""
URGENT = ("expired", "no-effect", "no-owner")


def render_findings(rules: Sequence[RuleUse], width: int, with_narrower: bool) -> list[Line]:
    """By rule, in the order of the policy."""
    found = [rule for rule in rules if rule.findings]
    if not found:
        return []
    lines = [line(bold(f"{count(len(found), 'rule needs', 'rules need')} a look"))]
    for rule in found:
        lines += [line(), line(bold(rule.rule), dim(f"  {rule.owner}"))]
        for finding in rule.findings:
            lines += _finding(finding, width)
            if with_narrower and finding.narrower:
                lines += [line(), *(line("    ", text) for text in finding.narrower.splitlines())]
    return lines


def _finding(finding: RuleFinding, width: int) -> Iterator[Line]:
    kind: Span = (bad if finding.kind in URGENT else warn)(finding.kind.ljust(INDENT - 3))
    room = max(width - INDENT, 20) if width else 0
    first, *rest = wrap(finding.why, room)
    yield line("  ", kind, " ", first)
    for text in rest:
        yield line(" " * INDENT, text)
    for at, text in enumerate(wrap(finding.mend, room - 2 if room else 0)):
        yield line(" " * INDENT, note("→ " if not at else "  "), text)
