"""The fleet, for somebody who was woken up: whether all is well, then what is wrong and what to do, then the rest.
However many hosts there are, a terminal does not scroll what is wrong away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from segctl.cli.output import Cell, Line, Span, Style, ago, bad, count, dim, good, line, note, table, warn
from segctl.cli.output_ca import render_ca
from segctl.cli.output_push import render_trial
from segctl.cli.output_troubles import EVENTS_SHOWN, STATES, named, render_events, render_troubles, unwell, urgency
from segctl.cli.views import Event, Generation, Host, Status, WorkloadStatus

TAMPERING_COUNTS = timedelta(days=1)
MODES = ("enforce", "test", "observe")
FEW = 20
"""Hosts that a terminal shows all; of more, only those that need somebody."""
ROWS, TROUBLES, EVENTS = 10, 8, 3
"""Of a larger fleet, at most."""


def render_status(status: Status, now: datetime, width: int, everything: bool = True) -> list[Line]:
    """`everything`: every host and problem, however many."""
    lines = [
        *_verdict(status),
        *_notices(status, now),
        line(dim(f"Fleet {status.fleet}, controller {status.controller_version}")),
        *_generation(status.active, now),
    ]
    ordered = sorted(status.hosts, key=urgency)
    everything = everything or len(ordered) <= FEW
    shown = ordered if everything else [h for h in ordered if unwell(h)][:ROWS]
    lines += _holders(status)
    lines += render_troubles(ordered, width, 0 if everything else TROUBLES)
    wanted = status.active.number if status.active else 0
    rows = [_row(host, wanted, now) for host in shown]
    if rows:
        lines += [line(), *table(("HOST", "STATE", "KERNEL", "SEEN", "EFFECTIVE MODES"), rows, width)]
    if len(shown) < len(ordered):
        lines += _unshown(ordered[len(shown) :])
    return lines + render_events(status.events, now, width, EVENTS_SHOWN if everything else EVENTS)


def _notices(status: Status, now: datetime) -> list[Line]:
    """What the whole fleet is amid, or should know; directly below the verdict."""
    return [
        *(render_trial(status.trial) if status.trial is not None else ()),
        *_tampering(status.events, now),
        *(render_ca(status.ca, now) if status.ca is not None else ()),
    ]


def _generation(active: Generation | None, now: datetime) -> list[Line]:
    if active is None:
        return [line(warn("No policy was pushed yet"), ": every host lets everything pass."), _next("segctl push PATH")]
    origin = f" (rollback to {active.rollback_of})" if active.rollback_of else ""
    words = f": {active.message}" if active.message else ""
    return [line(f"Generation {active.number}{origin} by {active.author}, {ago(active.created, now)}{words}")]


def _verdict(status: Status) -> list[Line]:
    """The first line: whether somebody has to do something."""
    hosts = status.hosts
    if not hosts:
        return [line(warn("No host is enrolled.")), _next("segctl token create --tag KEY=VALUE")]
    ill = [h for h in hosts if unwell(h)]
    total = count(len(hosts), "host")
    if not ill:
        if status.active is None:
            return [line(good("All well"), f": {total} connected and waiting for a policy.")]
        return [line(good("All well"), f": {total}, and the kernel of each holds generation {status.active.number}.")]
    coming = [h for h in ill if h.state == "pending" and not h.troubles]
    tally = Counter(h.state for h in hosts)
    spans: list[Cell] = []
    for state, style in STATES.items():
        if tally[state]:
            spans += [", " if spans else ": ", Span(f"{tally[state]:,} {state}", style)]
    if len(coming) == len(ill):
        words = f" of {total} did not prove generation {status.active.number if status.active else 0} yet"
        then = "wait some seconds; segctl-agent doctor on a host that stays pending"
        return [line(warn("Not there yet: "), warn(f"{len(coming):,}"), words, *spans), _next(then)]
    return [line(bad("Not well: "), bad(f"{len(ill):,}"), f" of {total} need somebody", *spans)]


def _tampering(events: Sequence[Event], now: datetime) -> list[Line]:
    """Healed or refused, a host where somebody tried is not all well."""
    hosts = sorted({e.host for e in events if e.kind == "tamper" and e.at and now - e.at < TAMPERING_COUNTS})
    if not hosts:
        return []
    return [line(warn(f"Tampering within the last day on {named(hosts)}."), " segctl host show HOST tells more.")]


def _holders(status: Status) -> list[Line]:
    """Which generation is in how many kernels, where that is not one for all."""
    held = Counter(h.kernel_generation for h in status.hosts)
    if len(held) < 2:
        return []
    parts = [f"{count(n, 'host')} {f'generation {g}' if g else 'none'}" for g, n in sorted(held.items(), reverse=True)]
    more = f", {len(parts) - 5} more generations" if len(parts) > 5 else ""
    return [line(f"Kernels hold: {', '.join(parts[:5])}{more}")]


def _row(host: Host, wanted: int, now: datetime) -> list[Cell]:
    held = "-" if not host.kernel_generation else str(host.kernel_generation)
    if host.kernel_generation and wanted and host.kernel_generation != wanted:
        held = f"{held} of {wanted}"
    seen = "connected" if host.connected else ago(host.last_seen, now)
    return [
        host.name,
        Span(host.state, STATES.get(host.state, Style.WARN)),
        held,
        seen if host.connected else warn(seen),
        modes(host.workloads),
    ]


def modes(workloads: Sequence[WorkloadStatus]) -> str:
    """`enforce (3 workloads)` when all agree, else `enforce shop-db · observe host`; strictest first."""
    by_mode = {m: sorted(w.name for w in workloads if w.mode == m) for m in MODES}
    present = [m for m in MODES if by_mode[m]]
    if len(present) == 1 and len(workloads) > 1:
        return f"{present[0]} ({len(workloads)} workloads)"
    return " · ".join(f"{m} {', '.join(by_mode[m])}" for m in present) or "-"


def _unshown(hosts: Sequence[Host]) -> list[Line]:
    """What the table leaves out, as sums."""
    states = Counter(h.state for h in hosts)
    tally = Counter(w.mode for h in hosts for w in h.workloads if w.mode)
    how = ", ".join(f"{states[s]:,} {s}" for s in STATES if states[s])
    what = ", ".join(f"{tally[m]:,} {m}" for m in MODES if tally[m])
    workloads = f"; their workloads: {what}" if what else ""
    return [line(dim(f"and {count(len(hosts), 'more host')}: {how}{workloads}: segctl status --all"))]


def _next(command: str) -> Line:
    return line("  ", note("→ "), command)
