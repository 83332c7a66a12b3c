"""Phases: which selectors are ready for the next one, one of them in full, and the change of the files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from segctl.cli.output import (
    Cell,
    Line,
    ago,
    bad,
    bold,
    count,
    dim,
    good,
    line,
    note,
    printable,
    span_of_time,
    table,
    warn,
)
from segctl.cli.output_denied import ARROWS
from segctl.cli.output_flows import end_name
from segctl.cli.output_hosts import tags
from segctl.cli.views_life import PhaseChange, Readiness, ReadyList, SeenFlow, Selection
from segctl.policy.life.readiness import percent

HEADERS = ("SELECTOR", "PHASE", "FOR", "DAYS", "EXPLAINED", "UNEXPLAINED", "PERIODIC", "NEXT")
NUMBERS = ("DAYS", "EXPLAINED", "UNEXPLAINED", "PERIODIC")
FLOW = ("HOST/WORKLOAD", "", "PEER", "SERVICE", "FLOWS", "LAST")


def selection(select: Selection) -> str:
    """As the command line takes it."""
    named = {"workload": select.workload} if select.workload else {}
    return ",".join(f"{key}={value}" for key, value in {**named, **select.tags}.items()) or "everything"


def render_ready(found: ReadyList, now: datetime, width: int) -> list[Line]:
    """The ready ones first; then what keeps each of the others."""
    ordered = sorted(found.selectors, key=lambda one: (not one.ready, len(one.obstacles)))
    rows: list[list[Cell]] = [
        [
            selection(one.select),
            one.phase,
            _age(one, now),
            f"{one.days:g}",
            _explained(one),
            f"{one.unexplained_kinds:,}",
            f"{one.periodic_kinds:,}",
            good(f"ready to {one.next}") if one.ready else dim(one.next or "-"),
        ]
        for one in ordered
    ]
    lines = table(HEADERS, rows, width, right=NUMBERS)
    kept = [one for one in ordered if one.obstacles]
    if kept:
        lines += [line(), line(bold("What keeps the others"))]
    for one in kept:
        lines.append(line("  ", selection(one.select)))
        lines += [line("    ", warn(obstacle.message)) for obstacle in one.obstacles]
    return lines


def _age(one: Readiness, now: datetime) -> str:
    if one.since is None:
        return "-"
    span = span_of_time((now - one.since).total_seconds())
    return span if one.since_known else f"{span}+"


def _explained(one: Readiness) -> str:
    return percent((one.flows - one.unexplained) / one.flows) if one.flows else "-"


def render_readiness(one: Readiness, now: datetime, width: int) -> list[Line]:
    state = good("ready") if one.ready else bad("not ready") if one.next else dim("the last phase")
    way = f"{one.phase} → {one.next}" if one.next else one.phase
    lines = [line(bold(selection(one.select)), f"  {way}  ", state), line()]
    facts: list[list[Cell]] = [
        ["phase", f"{one.phase} for {_age(one, now)}"],
        ["hosts", f"{one.hosts:,}"],
        ["observed", f"flows on {one.days:g} days"],
        ["explained", f"{_explained(one)} of {count(one.flows, 'flow')}{_parts(one)}"],
        ["unexplained", _unexplained(one)],
        [
            "periodic",
            f"{one.periodic_kinds:,} not seen in this phase" if one.periodic_kinds else dim("none is missing"),
        ],
        ["tests", _tests(one)],
    ]
    lines += table(("", ""), facts, width, indent=2)
    if one.obstacles:
        lines += [line(), line(bold("What keeps it"))]
        for obstacle in one.obstacles:
            lines.append(line("  ", warn(obstacle.message)))
            told = one.broken_tests if obstacle.code == "tests" else ()
            lines += [line("    ", bad(finding.message)) for finding in told]
            lines.append(line("    ", note("→ "), obstacle.hint))
    lines += _flows(f"Unexplained, the first {len(one.top)} of {one.unexplained_kinds:,}", one.top, now, width)
    return [*lines, *_periodic(one, now, width)]


def _parts(one: Readiness) -> str:
    return f", {one.bounded:,} are denied by boundaries" if one.bounded else ""


def _unexplained(one: Readiness) -> Cell:
    if not one.unexplained_kinds:
        return dim("none")
    kinds = count(one.unexplained_kinds, "kind")
    return f"{count(one.unexplained, 'flow')} of {kinds}, {one.coming:,} in the last day"


def _tests(one: Readiness) -> Cell:
    broken = len(one.broken_tests)
    return bad(f"{broken} of {one.tests} fail") if broken else f"{one.tests} pass" if one.tests else dim("none")


def _flows(title: str, flows: Sequence[SeenFlow], now: datetime, width: int) -> list[Line]:
    if not flows:
        return []
    return [line(), line(bold(title)), *table(FLOW, [_cells(f, now) for f in flows], width, indent=2, right=("FLOWS",))]


def _cells(f: SeenFlow, now: datetime) -> list[Cell]:
    peer = f"{f.peer_host} ({tags(f.peer_tags)})" if f.peer_host else f.peer_address
    arrow = ARROWS.get(f.direction, "?")
    return [
        end_name(f.host, f.workload, f.process),
        arrow,
        peer,
        f.service_name or f.service,
        f"{f.flows:,}",
        ago(f.last_seen, now),
    ]


def _periodic(one: Readiness, now: datetime, width: int) -> list[Line]:
    if not one.periodic:
        return []
    rows: list[list[Cell]] = [
        [
            *_cells(p.flow, now)[:4],
            f"every {p.every_days} days",
            f"{p.expected:%Y-%m-%d}" if p.expected else "-",
            "" if p.explained else warn("no rule"),
        ]
        for p in one.periodic
    ]
    title = f"Periodic and not seen in this phase, the first {len(rows)} of {one.periodic_kinds:,}"
    headers = ("HOST/WORKLOAD", "", "PEER", "SERVICE", "CAME", "EXPECTED", "")
    return [line(), line(bold(title)), *table(headers, rows, width, indent=2)]


def render_change(change: PhaseChange) -> list[Line]:
    """The patch, as a pipe takes it."""
    paints = {"+": good, "-": bad, "@": note}
    return [line(paints[text[0]](text) if text[:1] in paints else text) for text in change.diff.splitlines()]


def render_next(change: PhaseChange, paths: Sequence[str]) -> list[Line]:
    """What to do now."""
    lines = [line(good("Wrote"), f" {printable(name)}") for name in change.written]
    where = " ".join(paths) or "PATH"
    if change.diff and not change.written:
        return [line(note("→ "), "nothing was written; --write applies it to the files")]
    return [*lines, line(note("→ "), f"segctl push {where} -m {_quoted(change.message)}")]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
