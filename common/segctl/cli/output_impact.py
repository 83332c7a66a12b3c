"""The flows of the last day that a policy would block, in the words of `segctl plan`."""

from __future__ import annotations

from segctl.cli.output import Cell, Line, Span, Style, bad, bold, count, dim, good, line, table, warn
from segctl.cli.output_denied import ARROWS
from segctl.cli.views import BlockedFlow, FlowImpact, Plan

SHOWN = 10
"""Lines on a terminal; elsewhere all that the controller named."""


def render_impact(plan: Plan, width: int) -> list[Line]:
    impact = plan.impact
    if impact is None or not impact.blocked:
        return []
    shown = impact.blocked[: SHOWN if width else None]
    rows: list[list[Cell]] = [
        [
            f"{one.host}/{one.workload}",
            Span(ARROWS.get(one.direction, "?"), Style.BAD),
            one.peer_host or one.peer_address,
            one.service_name or one.service,
            _why(one),
            f"{one.flows:,}",
        ]
        for one in shown
    ]
    headers = ("FOR EXAMPLE", "", "PEER", "SERVICE", "REASON", "FLOWS")
    lines = [
        line(),
        line(bold("Flows of the last day that this would block")),
        *table(headers, rows, width, 1, 2, right=("FLOWS",)),
    ]
    rest = impact.blocked_kinds - len(shown)
    return [*lines, line(dim(f"  and {count(rest, 'more kind')}"))] if rest > 0 else lines


def render_impact_total(impact: FlowImpact | None) -> list[Line]:
    """Blocked flows are flows that an end would refuse: one between two hosts counts at each end that would."""
    if impact is None:
        return [line(warn("The controller could not tell which flows of the last day would be blocked."))]
    if not impact.judged_flows:
        return []
    some = "" if not impact.more else ", as far as there was time to judge them"
    if not impact.blocked_flows:
        return [line(good("No flow"), f" of the {impact.judged_flows:,} of the last day would be blocked{some}.")]
    blocked = bad(count(impact.blocked_flows, "flow"))
    return [line(blocked, f" of the {impact.judged_flows:,} of the last day would be blocked{some}.")]


def _why(one: BlockedFlow) -> str:
    return {"default": "no rule", "boundary": one.rule or "boundary"}.get(one.reason, one.rule or one.reason or "?")
