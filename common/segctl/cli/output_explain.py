"""An explanation: the verdict, both ends, and what would change it."""

from __future__ import annotations

from segctl.cli.output import Line, Span, Style, bad, bold, dim, line, note, wrap
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
    for end in e.ends:
        lines += [line(), *_end(end, e.live, width)]
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


def _end(end: End, live: bool, width: int) -> list[Line]:
    at = f"{end.host}/{end.workload}" if end.workload else end.host
    why = MEANING.get(end.reason, end.reason or "?").format(rule=end.rule)
    if end.reason in {"default", "boundary"} and end.verdict != "denied":
        why += f", but in {end.mode} nothing is dropped"
    lines = [
        line(bold(f"{end.direction:<8} "), f"{at}: ", verdict(end.verdict), dim(f"  (mode {end.mode})")),
        *_wrapped("  policy ", why, width),
    ]
    if end.position:
        lines.append(line("         ", note(end.position)))
    return lines + (_kernel(end, width) if live else [])


def _kernel(end: End, width: int) -> list[Line]:
    label = "  kernel "
    if not end.kernel_verdict:
        return _wrapped(label, f"not known: {end.kernel_detail or 'no answer'}", width)
    agrees = end.kernel_verdict == end.verdict
    remark = dim(", as the policy says") if agrees else bad(f", but the policy says {end.verdict}")
    detail = wrap(end.kernel_detail, width - len(label) if width else 0)
    return [
        line(dim(label), verdict(end.kernel_verdict), remark),
        *(line(" " * len(label), dim(text)) for text in detail if text),
    ]


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
    return [line(dim(label), first), *(line(" " * len(label), more) for more in rest)]
