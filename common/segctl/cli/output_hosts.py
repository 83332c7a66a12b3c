"""Hosts for people: the list of them, and one with all that is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from segctl.cli.output import Cell, Line, Span, Style, ago, bold, dim, line, note, stamp, table, warn, wrap
from segctl.cli.output_troubles import STATES, render_events, render_troubles
from segctl.cli.views import Event, Host, WorkloadStatus

GUARDS = {
    "owned": "owned: the kernel refuses changes by others",
    "watched": "watched: changes by others are undone",
}
WEAK = {"best-effort", "unknown"}


def render_hosts(hosts: Sequence[Host], width: int) -> list[Line]:
    if not hosts:
        return [line("No host is enrolled."), line("  ", note("→ "), "segctl token create --tag KEY=VALUE")]
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
    lines += render_troubles([host], width)
    lines += _workloads(host.workloads, width)
    if host.listeners:
        listening: list[list[Cell]] = [
            [f"{x.protocol}/{x.port}", x.address, x.process or "?", x.workload] for x in host.listeners
        ]
        lines += [line(), *table(("LISTENS", "ADDRESS", "PROCESS", "WORKLOAD"), listening, width, indent=2)]
    return lines + render_events([e for e in events if e.host == host.name], now, width)


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
