"""The live connections that a push would cut, one line for all that differ in their ports only."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from segctl.cli.output import Cell, Line, Span, Style, bad, bold, count, dim, good, line, table, warn, wrap
from segctl.cli.output_denied import ARROWS, program
from segctl.cli.views import Cut, Plan

SHOWN = 20
"""Lines on a terminal; elsewhere all that the controller named."""


def render_cuts(plan: Plan, width: int) -> list[Line]:
    if not plan.cuts:
        return []
    alike = Counter(replace(cut, remote_port=0, local_port=0) for cut in plan.cuts)
    shown = list(alike.items())[: SHOWN if width else None]
    rows: list[list[Cell]] = [
        [
            cut.host,
            _process(cut),
            cut.workload,
            Span(ARROWS.get(cut.direction, "?"), Style.BAD),
            cut.peer_host or cut.peer_address,
            cut.service,
            cut.rule or dim("none"),
            f"{number:,}",
        ]
        for cut, number in shown
    ]
    headers = ("HOST", "PROCESS", "WORKLOAD", "", "PEER", "SERVICE", "RULE NOW", "COUNT")
    lines = [
        line(),
        line(bold("Live connections that this would cut")),
        *table(headers, rows, width, 1, 2, right=("COUNT",)),
    ]
    rest = plan.cut_total - sum(number for _, number in shown)
    return [*lines, line(dim(f"  and {rest:,} more"))] if rest > 0 else lines


def render_cut_total(plan: Plan, width: int) -> list[Line]:
    """Offline hosts hold no connection that we could know of; connected ones that did not answer are named."""
    where = "that answered" if plan.unasked else "that are connected"
    if set(plan.hosts) <= set(plan.unasked):
        return [line(warn("No host told which live connections would be cut."))]
    if plan.cut_total:
        lines = [line(bad(count(plan.cut_total, "live connection")), f" would be cut on the hosts {where}.")]
    else:
        lines = [line(good("No live connection"), f" would be cut on the hosts {where}.")]
    if plan.unasked:
        text = f"Not asked, or without an answer: {', '.join(plan.unasked)}"
        lines += [line(warn(piece)) for piece in wrap(text, width, 2)]
    return lines


def _process(cut: Cut) -> Cell:
    if cut.process is None:
        return dim("not known")
    return f"{program(cut.process)} {cut.process.pid} {cut.process.user}".rstrip()
