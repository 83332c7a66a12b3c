"""An explanation: the verdict, both ends, and what would change it."""

from __future__ import annotations

from segctl.cli.output import Cell, Line, Span, Style, bad, bold, dim, line, note, table, warn, wrap
from segctl.cli.views import End, Explanation

VERDICTS = {"allowed": Style.GOOD, "denied": Style.BAD, "would-deny": Style.WARN}
MEANING = {
    "rule": "rule {rule}",
    "boundary": "boundary {rule} denies it",
    "default": "no rule allows it",
    "essential": "an essential: always passes",
}


def render_explanation(explanation: Explanation, width: int) -> list[Line]:
    e = explanation
    lines = [
        line(
            bold(f"{e.source} → {e.destination}  {e.service}"),
            ": ",
            verdict(e.verdict),
            dim(f"  (generation {e.generation})") if e.generation else dim("  (no policy was pushed yet)"),
        )
    ]
    if e.ends:
        lines += [line(), *table(("END", "AT", "VERDICT", "MODE", "WHY", "WHERE"), [_row(x) for x in e.ends], width)]
    if e.live and e.ends:
        lines += [line(), *_kernels(e, width)]
    if e.differs:
        lines += [
            line(),
            line(bad("The policy and the kernel do not say the same.")),
            line("  ", note("→ "), "segctl status shows whether a host is behind or its table was changed"),
        ]
    lines += _remedy(e, width)
    return lines + [text for remark in e.notes for text in _wrapped("note: ", remark, width)]


def verdict(word: str) -> Span:
    return Span(word or "?", VERDICTS.get(word, Style.WARN))


def _row(end: End) -> list[Cell]:
    why = MEANING.get(end.reason, end.reason or "?").format(rule=end.rule)
    at = f"{end.host}/{end.workload}" if end.workload else end.host
    return [end.direction, at, verdict(end.verdict), end.mode, why, end.position]


def _kernels(e: Explanation, width: int) -> list[Line]:
    lines = [line(bold("Kernels"))]
    for end in e.ends:
        if end.kernel_verdict:
            agrees = end.kernel_verdict == end.verdict
            lines.append(
                line(
                    "  ",
                    f"{end.host} {end.direction}: ",
                    verdict(end.kernel_verdict),
                    dim(" as the policy says") if agrees else bad(f" but the policy says {end.verdict}"),
                )
            )
            lines += [line("    ", dim(text)) for text in wrap(end.kernel_detail, width - 4 if width else 0) if text]
        else:
            lines += _wrapped(
                f"  {end.host} {end.direction}: ", f"not known: {end.kernel_detail or 'no answer'}", width
            )
    return lines


def _remedy(e: Explanation, width: int) -> list[Line]:
    lines: list[Line] = []
    if e.nearest_rule:
        lines.append(line())
        lines += _wrapped("Nearest rule: ", f"{e.nearest_rule}: {e.nearest_why}", width)
    if e.suggestion:
        lines += [line(), line(bold("This would allow it"), dim("  (add to the policy, review, segctl push)"))]
        lines += [line("  ", note(text)) for text in e.suggestion.splitlines()]
    return [*lines, line()] if e.notes else lines


def _wrapped(label: str, text: str, width: int) -> list[Line]:
    first, *rest = wrap(text, width - len(label) if width else 0)
    return [line(warn(label), first), *(line(" " * len(label), more) for more in rest)]
