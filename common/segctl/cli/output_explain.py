"""An explanation: the verdict, both ends, and what would change it."""

from __future__ import annotations

import re

from segctl.cli.output import Line, Span, Style, bad, bold, dim, line, note, wrap
from segctl.cli.views import End, Explanation

VERDICTS = {"allowed": Style.GOOD, "denied": Style.BAD, "would-deny": Style.WARN}
DONE = {"allowed": "accepted", "denied": "dropped", "would-deny": "accepted, and reported as would-deny"}
PIECES = re.compile(r"; (?=[0-9a-f.:]+: )")
ANSWER = re.compile(r"([0-9a-f.:]+): (allowed|denied|would-deny) \((.*)\)$", re.DOTALL)
MEANING = {
    "rule": "rule {rule}",
    "boundary": "boundary {rule} denies it",
    "default": "no rule allows it",
    "essential": "an essential: always passes",
}


def render_explanation(explanation: Explanation, width: int, wide: bool = False) -> list[Line]:
    """`wide` adds the way through the chains of each kernel."""
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
        lines += [line(), *_end(end, e.live, width, wide)]
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


def _end(end: End, live: bool, width: int, wide: bool) -> list[Line]:
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
    return lines + (_kernel(end, width, wide) if live else [])


def _kernel(end: End, width: int, wide: bool) -> list[Line]:
    label = "  kernel "
    if not end.kernel_verdict:
        return _wrapped(label, f"not known: {end.kernel_detail or 'no answer'}", width)
    agrees = end.kernel_verdict == end.verdict
    remark = dim(", as the policy says") if agrees else bad(f", but the policy says {end.verdict}")
    told = PIECES.split(end.kernel_detail) if wide else _answers(end.kernel_detail)
    detail = [text for piece in told for text in wrap(piece, width - len(label) if width else 0, 2)]
    return [
        line(dim(label), verdict(end.kernel_verdict), remark),
        *(line(" " * len(label), dim(text)) for text in detail if text),
    ]


def _answers(detail: str) -> list[str]:
    """`IPv4 and IPv6: dropped` of the controller's `ADDRESS: VERDICT (WAY); ...`. What is no verdict comes as it is,
    and so does a WAY that leads through no chain: it says why nothing is enforced."""
    families: dict[str, list[str]] = {}
    others = []
    for piece in PIECES.split(detail):
        match = ANSWER.match(piece)
        if match:
            why = "" if match[3].startswith("chain ") else f" ({match[3]})"
            families.setdefault(DONE[match[2]] + why, []).append("IPv6" if ":" in match[1] else "IPv4")
        elif piece:
            others.append(piece)
    return [f"{' and '.join(names)}: {done}" for done, names in families.items()] + others


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
