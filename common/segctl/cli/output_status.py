"""The fleet, for somebody who was woken up: the verdict first, then what is wrong and what to do, then the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from segctl.cli.output import (
    LAST_AT_LEAST,
    Cell,
    Line,
    Span,
    Style,
    ago,
    bad,
    bold,
    count,
    dim,
    good,
    line,
    note,
    printable,
    span,
    stamp,
    table,
    warn,
    wrap,
)
from segctl.cli.output_push import render_trial
from segctl.cli.views import Event, Generation, Host, Status, WorkloadStatus

STATES = {
    "released": Style.BAD,
    "refused": Style.BAD,
    "offline": Style.WARN,
    "pending": Style.WARN,
    "never-connected": Style.WARN,
    "in-sync": Style.GOOD,
}
EVENTS_SHOWN = 10
TAMPERING_COUNTS = timedelta(days=1)
GUARDS = {
    "owned": "owned: the kernel refuses changes by others",
    "watched": "watched: changes by others are undone",
}
WEAK = {"best-effort", "unknown"}
MODES = ("enforce", "test", "observe")


def render_status(status: Status, now: datetime, width: int) -> list[Line]:
    lines = [
        line(bold(f"Fleet {status.fleet}"), dim(f"  controller {status.controller_version}")),
        *_generation(status.active, now),
        *(render_trial(status.trial) if status.trial is not None else ()),
        line(),
        *_verdict(status),
        *_tampering(status.events, now),
    ]
    lines += _problems(status.hosts, width)
    ordered = sorted(status.hosts, key=_urgency)
    wanted = status.active.number if status.active else 0
    rows = [_row(host, wanted, now) for host in ordered]
    if rows:
        lines += [line(), *table(("HOST", "STATE", "KERNEL", "SEEN", "EFFECTIVE MODES"), rows, width)]
    return lines + _events(status.events, now, width)


def _generation(active: Generation | None, now: datetime) -> list[Line]:
    if active is None:
        return [line(warn("No policy was pushed yet"), ": every host lets everything pass."), _next("segctl push PATH")]
    origin = f" (rollback to {active.rollback_of})" if active.rollback_of else ""
    words = f": {active.message}" if active.message else ""
    return [line(f"Generation {active.number}{origin} by {active.author}, {ago(active.created, now)}{words}")]


def _verdict(status: Status) -> list[Line]:
    if not status.hosts:
        return [line(warn("No host is enrolled.")), _next("segctl token create --tag KEY=VALUE")]
    tally = {state: sum(h.state == state for h in status.hosts) for state in STATES}
    ill = sum(bool(h.problems) for h in status.hosts)
    total = count(len(status.hosts), "host")
    if tally["in-sync"] == len(status.hosts) and not ill:
        if status.active is None:
            return [line(good("All well"), f": {total} connected and waiting for a policy.")]
        return [line(good("All well"), f": {total} in sync, the kernel of each holds the generation.")]
    spans: list[Cell] = [f"{total}: "]
    for state, style in STATES.items():
        if tally[state]:
            spans += [", "] if len(spans) > 1 else []
            spans.append(Span(f"{tally[state]} {state}", style))
    return [line(*spans, f"; {ill} with problems" if ill else "")]


def _tampering(events: Sequence[Event], now: datetime) -> list[Line]:
    """Healed or refused, a host where somebody tried is not all well."""
    hosts = sorted({e.host for e in events if e.kind == "tamper" and e.at and now - e.at < TAMPERING_COUNTS})
    if not hosts:
        return []
    return [line(warn(f"Tampering within the last day on {', '.join(hosts)}."), " segctl host show HOST tells more.")]


def _problems(hosts: Sequence[Host], width: int) -> list[Line]:
    ill = [h for h in sorted(hosts, key=_urgency) if h.problems]
    lines: list[Line] = [line(), line(bold("Problems"))] if ill else []
    margin = max((len(h.name) for h in ill), default=0)
    for host in ill:
        for problem in host.problems:
            first, *rest = wrap(problem, width - margin - 4 if width else 0)
            lines.append(line("  ", bad(host.name.ljust(margin)), "  ", first))
            lines += [line(" " * (margin + 4), text) for text in rest]
    return lines


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


def _events(events: Sequence[Event], now: datetime, width: int) -> list[Line]:
    if not events:
        return []
    lines = [line(), line(bold("Recent events"))]
    newest = sorted(events, key=lambda e: e.at.timestamp() if e.at else 0.0, reverse=True)[:EVENTS_SHOWN]
    rows: list[list[Cell]] = [[ago(e.at, now), e.host, warn(e.kind), e.message] for e in newest]
    return lines + table([""] * 4, _folded(rows, width - 2), 0, indent=2)


def _folded(rows: Sequence[Sequence[Cell]], width: int) -> list[list[Cell]]:
    """The rows with the last cell, a sentence, wrapped onto rows of its own. A width below 0: as they are."""
    taken = sum(max(len(printable(span(row[i]).text)) for row in rows) + 2 for i in range(3))
    folded: list[list[Cell]] = []
    for row in rows:
        first, *rest = wrap(span(row[-1]).text, max(width - taken, LAST_AT_LEAST) if width > 0 else 0)
        more: list[list[Cell]] = [["", "", "", text] for text in rest]
        folded += [[*row[:-1], first], *more]
    return folded


def _urgency(host: Host) -> tuple[int, str]:
    rank = list(STATES).index(host.state) if host.state in STATES else 0
    return (rank if host.state != "in-sync" or not host.problems else -1, host.name)


def _next(command: str) -> Line:
    return line("  ", note("→ "), command)


def render_hosts(hosts: Sequence[Host], width: int) -> list[Line]:
    if not hosts:
        return [line("No host is enrolled."), _next("segctl token create --tag KEY=VALUE")]
    rows: list[list[Cell]] = [
        [
            h.name,
            Span(h.state, STATES.get(h.state, Style.WARN)),
            tags(h.tags) or dim("no tags"),
            ", ".join(h.addresses) or dim("none yet"),
        ]
        for h in sorted(hosts, key=lambda h: h.name)
    ]
    return table(("HOST", "STATE", "TAGS", "ADDRESSES"), rows, width)


def render_host(host: Host, now: datetime, width: int, events: Sequence[Event] = ()) -> list[Line]:
    """`events` are those of the fleet; only the ones of this host are shown."""
    facts: list[list[Cell]] = [
        ["state", Span(host.state, STATES.get(host.state, Style.WARN))],
        ["tags", tags(host.tags) or "none"],
        ["addresses", ", ".join(host.addresses) or "none yet"],
        ["seen", "connected" if host.connected else f"{ago(host.last_seen, now)} ({stamp(host.last_seen)})"],
        ["generation", str(host.kernel_generation or "-")],
        ["agent", host.agent_version or "-"],
        ["kernel", host.kernel or "-"],
    ]
    if host.table_guard:
        facts.append(["table", GUARDS.get(host.table_guard, host.table_guard)])
    if host.mark_mask:
        facts.append(["marks", f"{host.mark_mask:#010x} of the conntrack mark"])
    lines = [line(bold(host.name)), *table(["", ""], [[dim(str(k)), x] for k, x in facts], 0, indent=2)]
    lines += _problems([host], width)
    lines += _workloads(host.workloads, width)
    if host.listeners:
        listening: list[list[Cell]] = [
            [f"{x.protocol}/{x.port}", x.address, x.process or "?", x.workload] for x in host.listeners
        ]
        lines += [line(), *table(("LISTENS", "ADDRESS", "PROCESS", "WORKLOAD"), listening, width, indent=2)]
    return lines + _events([e for e in events if e.host == host.name], now, width)


def _workloads(workloads: Sequence[WorkloadStatus], width: int) -> list[Line]:
    """How they are told apart only where the agent says so; where that is weak, with the reason."""
    if not workloads:
        return []
    told = any(w.identified for w in workloads)
    rows: list[list[Cell]] = [
        [
            w.name,
            w.mode or "-",
            w.process or dim("everything else"),
            *([w.identified or "-", _strength(w)] if told else []),
            ", ".join(w.cgroups) or dim(_without_cgroup(w)),
        ]
        for w in workloads
    ]
    headers = ("WORKLOAD", "MODE", "PROCESS", *(("TOLD BY", "HOW STRONG") if told else ()), "CGROUPS")
    lines = [line(), *table(headers, rows, width, indent=2, last_gives=True)]
    for w in workloads:
        if w.strength in WEAK and w.why:
            first, *rest = wrap(f"{w.name} is told {w.strength}: {w.why}", width - 2 if width else 0, 2)
            lines += [line("  ", warn(first)), *(line("  ", warn(text)) for text in rest)]
    return lines


def _strength(workload: WorkloadStatus) -> Cell:
    return warn(workload.strength) if workload.strength in WEAK else workload.strength or "-"


def _without_cgroup(workload: WorkloadStatus) -> str:
    """Only a workload that names processes can be without one; `host` is whatever no other names."""
    return "no process now" if workload.process else "all other processes"


def tags(mapping: Mapping[str, str]) -> str:
    return " ".join(f"{k}={v}" for k, v in sorted(mapping.items()))
