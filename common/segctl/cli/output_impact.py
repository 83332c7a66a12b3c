"""What a policy would make of the flows of the past, in the words of `segctl plan`."""

from __future__ import annotations

from collections.abc import Sequence

from segctl.cli.output import Cell, Line, Span, Style, bad, bold, count, dim, good, line, stamp, table, warn, wrap
from segctl.cli.output_denied import ARROWS
from segctl.cli.views import Plan
from segctl.cli.views_impact import BlockedFlow, FlowImpact

SHOWN = 10
"""Lines on a terminal; elsewhere all that the controller named."""
WIDE = 100
"""Columns from which on the rule, its owner and the processes are told in the table."""


def render_impact(plan: Plan, width: int) -> list[Line]:
    impact = plan.impact
    if impact is None:
        return []
    when = window(impact)
    return [
        *_flows(impact.blocked, impact.blocked_kinds, f"Flows {when} that this would block", Style.BAD, width),
        *_flows(impact.allowed, impact.allowed_kinds, f"Flows {when} that this comes to allow", Style.GOOD, width),
        *_replay(impact),
    ]


def window(impact: FlowImpact) -> str:
    """`of the last day`, or from when on."""
    return f"since {stamp(impact.since)}" if impact.since else "of the last day"


def _flows(flows: Sequence[BlockedFlow], kinds: int, title: str, style: Style, width: int) -> list[Line]:
    if not flows:
        return []
    shown = flows[: SHOWN if width else None]
    wide = not width or width >= WIDE
    rows: list[list[Cell]] = [
        [
            f"{one.host}/{one.workload}",
            Span(ARROWS.get(one.direction, "?"), style),
            one.peer_host or one.peer_address,
            one.service_name or one.service,
            _why(one),
            f"{one.flows:,}",
            *([_now(one), one.owner or dim("-"), ", ".join(one.processes) or dim("not known")] if wide else []),
        ]
        for one in shown
    ]
    more = ("NOW", "OWNER", "PROCESS") if wide else ()
    headers = ("FOR EXAMPLE", "", "PEER", "SERVICE", "REASON", "FLOWS", *more)
    lines = [line(), line(bold(title)), *table(headers, rows, width, 1, 2, right=("FLOWS",))]
    owners = sorted({one.owner for one in flows} - {""})
    if owners and not wide:
        told = wrap(f"Owners of the rules concerned: {', '.join(owners)}", width - 2, 2)
        lines += [line("  ", text) for text in told]
    rest = kinds - len(shown)
    return [*lines, line(dim(f"  and {count(rest, 'more kind')}"))] if rest > 0 else lines


def _replay(impact: FlowImpact) -> list[Line]:
    if not impact.spans:
        return []
    rows: list[list[Cell]] = [
        [
            stamp(span.since)[:-3],
            f"{span.judged_flows:,}",
            bad(f"{span.blocked_flows:,}") if span.blocked_flows else "0",
            good(f"{span.allowed_flows:,}") if span.allowed_flows else "0",
        ]
        for span in impact.spans
    ]
    headers = ("FROM (UTC)", "FLOWS", "BLOCKED", "ALLOWED")
    return [line(), line(bold(f"Flows {window(impact)}, replayed")), *table(headers, rows, 0, 2, 2, right=headers[1:])]


def render_impact_total(impact: FlowImpact | None) -> list[Line]:
    """Blocked flows are flows that an end would refuse: one between two hosts counts at each end that would."""
    if impact is None:
        return [line(warn("The controller could not tell which flows of the last day would be blocked."))]
    if not impact.judged_flows and not impact.allowed_flows:
        return []
    some = "" if not impact.more else ", as far as there was time to judge them"
    of = f" of the {impact.judged_flows:,} {window(impact)} would be blocked{some}"
    lines = []
    if impact.blocked_flows:
        new = f", {impact.newly_blocked_flows:,} of them let pass today" if impact.newly_blocked_flows else ""
        lines.append(line(bad(count(impact.blocked_flows, "flow")), f"{of}{new}."))
    else:
        lines.append(line(good("No flow"), f"{of}."))
    if impact.allowed_flows:
        lines.append(line(good(count(impact.allowed_flows, "flow")), " would come to be allowed."))
    return lines


def _why(one: BlockedFlow) -> str:
    return {"default": "no rule", "boundary": one.rule or "boundary"}.get(one.reason, one.rule or one.reason or "?")


def _now(one: BlockedFlow) -> str:
    """What the policy in force says: the rule that permits it, or why nothing does."""
    words = {"not-covered": "no rule", "would-deny": "would be denied"}.get(one.was, one.was or "?")
    return one.was_rule if one.was == "allowed" and one.was_rule else words
