"""Suggestions as lines: the list to review, one with all that speaks for and against it, and what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from segctl.cli.output import Cell, Line, Span, ago, bad, bold, count, dim, good, line, note, stamp, table, warn
from segctl.cli.views_suggest import Decision, LeftOut, Observed, Suggestion, Suggestions

CONFIDENCE = {"high": good, "medium": note, "low": warn}
VERDICTS = {"accepted": good, "edited": note, "rejected": bad}
SHOWN = 5
"""Observations below each reason."""


def render_review(found: Suggestions, now: datetime, width: int) -> list[Line]:
    rows: list[list[Cell]] = [
        [
            one.id,
            _confidence(one),
            one.rule,
            ", ".join(one.services),
            one.rhythm,
            f"{one.hosts}" + (f" of {one.of_hosts}" if one.of_hosts else ""),
            f"{one.excess.unseen + one.excess.silent} of {one.excess.permitted}",
            ago(one.first_seen, now),
            _decided(one.decision),
        ]
        for one in found.suggestions
    ]
    headers = ("ID", "SURE", "RULE", "SERVICES", "WHEN", "HOSTS", "NEVER SEEN", "SINCE", "")
    return table(headers, rows, width)


def render_suggestion(one: Suggestion, unit: str, now: datetime, width: int) -> list[Line]:
    addresses = "address" if one.hosts == 1 else "addresses"
    excess, hosts = one.excess, f" of {one.of_hosts} hosts" if one.of_hosts else f" {addresses}"
    lines = [
        line(bold(one.rule), "  ", dim(one.id), "  ", _confidence(one), *_verdict(one.decision)),
        line(f"{one.source} → {one.destination}", f" within {', '.join(one.within)}" if one.within else ""),
        line(
            f"{one.rhythm}: {one.flows:,} flows on {count(one.sightings, unit)} from {one.hosts}{hosts}, "
            f"since {stamp(one.first_seen)}, last {ago(one.last_seen, now)}"
        ),
        line(f"permits {count(excess.permitted, 'pair')} of tag groups, of which {excess.seen} were seen"),
    ]
    if excess.unseen or excess.silent:
        lines.append(
            line(
                warn("never seen"),
                f": {excess.unseen} though both ends were, {excess.silent} with an end that told nothing",
            )
        )
        lines += [line("  ", dim(text)) for text in excess.examples]
    lines += [line(warn("note"), f": {text}") for text in one.remarks]
    lines += [
        line(),
        line(bold("Explains"), f" {count(one.explained, 'kind')} of flows"),
        *_observed(one.explains, width),
    ]
    return [*lines, line(), *(line(text) for text in one.policy.splitlines())]


def render_left_out(found: Sequence[LeftOut], width: int) -> list[Line]:
    lines: list[Line] = []
    for one in found:
        lines += [line(bold(one.reason), f": {one.flows:,} flows. {one.why}")]
        lines += _observed(one.observations[:SHOWN], width)
        if len(one.observations) > SHOWN:
            lines.append(line(dim("  and more: --json shows them")))
    return lines or [line("Nothing was left out.")]


def render_summary(found: Suggestions) -> list[Line]:
    left = sum(one.flows for one in found.left_out)
    lines = [
        line(
            bold(count(len(found.suggestions), "rule")),
            f" suggested from {stamp(found.since)} to {stamp(found.until)}; {found.permitted:,} flows are permitted "
            f"already, {left:,} left out: segctl suggest --left-out says why",
        )
    ]
    if found.more:
        lines.append(line(warn("there were more kinds of flows than are looked at: ask for a shorter time")))
    return lines


def render_decisions(found: Sequence[Decision], now: datetime, width: int) -> list[Line]:
    rows: list[list[Cell]] = [
        [one.id, VERDICTS.get(one.verdict, note)(one.verdict), one.rule, one.actor, ago(one.at, now), one.reason]
        for one in found
    ]
    return table(("ID", "", "RULE", "BY", "WHEN", "WHY"), rows, width) if rows else [line("Nothing was decided yet.")]


def _observed(found: Sequence[Observed], width: int) -> list[Line]:
    rows: list[list[Cell]] = [
        [f"  {one.source}", "→", one.destination, one.service, f"{one.flows:,}", f"{one.sightings}", f"{one.hosts}"]
        for one in found
    ]
    headers = ("  FROM", "", "TO", "SERVICE", "FLOWS", "SEEN", "HOSTS")
    return table(headers, rows, width, gap=1, right=("FLOWS", "SEEN", "HOSTS")) if rows else []


def _confidence(one: Suggestion) -> Span:
    return CONFIDENCE.get(one.confidence, note)(one.confidence)


def _decided(decision: Decision | None) -> Cell:
    return VERDICTS.get(decision.verdict, note)(decision.verdict) if decision else ""


def _verdict(decision: Decision | None) -> tuple[Cell, ...]:
    return ("  ", _decided(decision), f" by {decision.actor}") if decision else ()
