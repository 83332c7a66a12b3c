"""A plan: what becomes allowed and denied, which modes change, which hosts are touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType

from segctl.cli.output import (
    Cell,
    Line,
    Span,
    Style,
    bad,
    bold,
    clip,
    count,
    dim,
    good,
    line,
    note,
    paint,
    table,
    warn,
    wrap,
)
from segctl.cli.output_check import render_finding
from segctl.cli.output_cuts import render_cut_total, render_cuts
from segctl.cli.output_enforce import selection
from segctl.cli.output_impact import render_impact, render_impact_total
from segctl.cli.views import ABSENT, Change, ModeChange, Plan, Unready
from segctl.model.findings import Severity

HOSTS_SHOWN = 6
GONE = "gone"
Services = Mapping[str, frozenset[str]]
"""The name of a declared service to all that it stands for, in the words of Change.service."""
EFFECT = {
    "enforce": "what no rule allows is denied from now on",
    "test": "nothing is dropped, would-be denials are reported",
    "observe": "nothing is dropped and nothing is reported as denied",
    GONE: "its processes belong to host from now on",
}
ELSEWHERE = (
    "Who may talk to whom stays as it is now. What changes is the end or the name of a rule, how a workload is told, "
    "or an essential."
)
ANSWERS = "the same is denied, and answered in another way"


def render_plan(plan: Plan, width: int, services: Services = MappingProxyType({})) -> list[Line]:
    """`services` are those of several ports: changes of all of them are shown by its name."""
    base = f"generation {plan.base_generation}" if plan.base_generation else "a fleet without a policy"
    lines = [line(bold("Plan"), f" against {base}", dim(f"  (policy {plan.digest[:12]})" if plan.digest else ""))]
    for allowed, title in ((True, "Becomes allowed"), (False, "Becomes denied")):
        lines += _changes([c for c in plan.changes if c.allowed is allowed], title, width, services)
    lines += _modes(plan.modes, width)
    lines += _unready(plan.unready, width)
    lines += render_cuts(plan, width)
    lines += render_impact(plan, width)
    for finding in plan.findings:
        lines += [line()] if finding is plan.findings[0] else []
        lines += render_finding(finding, None, width)
    if plan.hosts and not (plan.changes or plan.modes):
        lines += [line(), *(line(text) for text in wrap(ELSEWHERE, width))]
    return [*lines, line(), *_summary(plan, width)]


def _changes(changes: Sequence[Change], title: str, width: int, services: Services) -> list[Line]:
    if not changes:
        return []
    mark = Span("+", Style.GOOD) if changes[0].allowed else Span("-", Style.BAD)
    ordered = sorted(changes, key=lambda c: (c.rule, c.source, c.destination, c.service))
    lines = [line(), line(bold(title))]
    for rule, group in groupby(ordered, key=lambda c: c.rule):
        lines.append(line("  ", dim("rule "), rule or "-"))
        lines += _pairs(list(_merged(group, services)), mark, width)
    return lines


def _pairs(changes: Sequence[Change], mark: Span, width: int) -> list[Line]:
    """In columns when they fit, else each on two lines: what a rule opens is never cut."""
    rows: list[list[Cell]] = [
        [mark, c.source, "→", c.destination, c.service, dim(f"on {hosts(c.hosts, 3)}")] for c in changes
    ]
    columns = table([""] * 6, rows, 0, gap=1, indent=4)
    if not width or max(len(paint(spans, colour=False)) for spans in columns) <= width:
        return columns
    lines = []
    for c in changes:
        pair = f" {c.source} → {c.destination}"
        folded = len(pair) + 5 > width
        lines.append(line("    ", mark, f" {c.source}" if folded else pair))
        lines += [line("      → ", c.destination)] if folded else []
        lines.append(line("        ", c.service, dim(f"  on {hosts(c.hosts, 3)}")))
    return lines


def _merged(changes: Iterable[Change], services: Services) -> Iterable[Change]:
    """Changes that differ only in the service become one row."""
    for key, group in groupby(changes, key=lambda c: (c.allowed, c.source, c.destination, c.rule, c.hosts)):
        yield Change(*key[:3], " ".join(_named([c.service for c in group], services)), *key[3:])


def _named(changed: Sequence[str], services: Services) -> list[str]:
    """`changed` with every declared service that is in it as a whole by its name, the largest first."""
    rest, names = set(changed), []
    for name, ports in sorted(services.items(), key=lambda item: (-len(item[1]), item[0])):
        if ports and ports <= rest:
            names.append(name)
            rest -= ports
    return [*sorted(names), *(one for one in changed if one in rest)]


def _modes(modes: Sequence[ModeChange], width: int) -> list[Line]:
    if not modes:
        return []
    lines = [line(), line(bold("Modes"))]
    ordered = sorted(modes, key=lambda m: (m.before, m.after, m.workload, m.host))
    for (before, after), group in groupby(ordered, key=lambda m: (m.before, m.after)):
        members = list(group)
        became = GONE if after in ABSENT else after
        change = f"{'new' if before in ABSENT else before} → {became}"
        mode, was = became.split(",")[0], before.split(",")[0]  # what follows says how denials are answered
        effect = ANSWERS if was == mode else EFFECT.get(mode, "")
        lines.append(line("  ", warn(change) if mode == "enforce" and was != mode else change, dim(f"  {effect}")))
        for workload, those in groupby(members, key=lambda m: m.workload):
            names = [m.host for m in those]
            lines.append(line("    ", clip(f"{workload} on {hosts(names, HOSTS_SHOWN)}", width - 4 if width else 0)))
    return lines


def _unready(unready: Sequence[Unready], width: int) -> list[Line]:
    lines = [line(), line(bold("Not ready to enforce"))]
    room = width - 4 if width else 0
    for one in unready:
        lines.append(line("  ", selection(one.select)))
        for workload, those in groupby(sorted(one.moves, key=lambda m: (m.workload, m.host)), lambda m: m.workload):
            lines.append(line("    ", clip(f"{workload} on {hosts([m.host for m in those], HOSTS_SHOWN)}", room)))
        lines += [line("    ", warn(text)) for obstacle in one.obstacles for text in wrap(obstacle.message, room)]
    return [*lines, line("  ", note("→ "), "segctl enforce SELECTOR shows one in full")] if unready else []


def _summary(plan: Plan, width: int) -> list[Line]:
    errors = sum(f.severity is Severity.ERROR for f in plan.findings)
    allowed = sum(c.allowed for c in plan.changes)
    denied = len(plan.changes) - allowed
    lines = []
    if plan.changes or plan.modes or plan.hosts:
        spans: list[Cell] = [
            good(f"+{allowed}") if allowed else "+0",
            " allowed, ",
            bad(f"-{denied}") if denied else "-0",
            f" denied, {count(len(plan.modes), 'mode change')}, {count(len(plan.hosts), 'host')} to change",
        ]
        lines.append(line(*spans))
        named = ", ".join(sorted(plan.hosts))
        lines += [line(text) for text in wrap(f"Hosts: {named}", width, 7)] if named else []
        lines += (
            [*render_cut_total(plan, width), *render_impact_total(plan.impact)] if plan.hosts and not errors else []
        )
        if plan.unready:
            named = "; ".join(selection(one.select) for one in plan.unready)
            told = wrap(f"Not ready to enforce: {named}", width)
            lines += [line(warn(text)) for text in told]
    elif not errors:
        lines.append(line("Nothing changes on any host."))
    if errors:
        lines.append(line(bad(f"{count(errors, 'error')}: a push of this policy is refused.")))
    elif plan.tests:
        lines.append(line(f"{count(plan.tests, 'policy test')} ran, ", good("all hold"), "."))
    else:
        lines.append(line(warn("No policy tests ran"), ": the policy has none. Add `tests:`, they guard every push."))
    return lines


def hosts(names: Sequence[str], shown: int) -> str:
    """`web1, web2 and 3 more`."""
    ordered = sorted(names)
    if len(ordered) <= shown:
        return ", ".join(ordered)
    return f"{', '.join(ordered[:shown])} and {len(ordered) - shown} more"
