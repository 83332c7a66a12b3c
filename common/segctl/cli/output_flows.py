"""Accepted flows, one line each, and what rules are used for."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from datetime import datetime

from segctl.cli.output import Cell, Line, Span, ago, bad, bold, count, dim, line, printable, size, table, warn
from segctl.cli.output_denied import ARROWS, IPV6
from segctl.cli.views import Flow, Flows
from segctl.cli.views_json import to_json
from segctl.cli.views_life import RuleUse
from segctl.model.policy import HOST_WORKLOAD
from segctl.model.processes import name_of

BYTES_FROM = 100
"""Columns of a terminal."""


def render_flows(flows: Flows, now: datetime, width: int) -> list[Line]:
    """Without the bytes on a terminal narrower than BYTES_FROM, for who talks to whom goes first, and where no host
    counts them."""
    wide = (not width or width >= BYTES_FROM) and any(f.bytes_sent or f.bytes_received for f in flows.flows)
    rows: list[list[Cell]] = [
        [
            ago(f.last_seen, now),
            _local(f),
            Span(ARROWS.get(f.direction, "?")),
            _peer(f),
            f.service_name or f.service,
            _why(f),
            f"{f.flows:,}",
            *(_octets(f) if wide else ()),
        ]
        for f in flows.flows
    ]
    headers = ("SEEN", "HOST/WORKLOAD", "", "PEER", "SERVICE", "BY", "FLOWS", *(("SENT", "RECEIVED") if wide else ()))
    lines = table(headers, rows, width, gap=1, right=("FLOWS", "SENT", "RECEIVED"))
    if flows.lost:
        lines.append(line(warn(f"{flows.lost:,} more were accepted and counted, but are in no line: too many")))
    return lines


def _octets(f: Flow) -> tuple[Cell, Cell]:
    """Both 0: the kernel does not count them."""
    if not (f.bytes_sent or f.bytes_received):
        return dim("-"), dim("-")
    return size(f.bytes_sent), size(f.bytes_received)


def csv_lines(flows: Sequence[Flow]) -> Iterator[str]:
    """RFC 4180 without its line ends: a heading and one row a flow, with the fields of the JSON."""
    yield _row([field.name for field in dataclasses.fields(Flow)])
    for flow in flows:
        fields = to_json(flow)
        yield _row(
            ["" if x is None else printable(str(x)) for x in fields.values()] if isinstance(fields, dict) else []
        )


def _row(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()


def _local(f: Flow) -> str:
    return end_name(f.host, f.workload, f.process, named=f.verdict != "denied")


def end_name(host: str, workload: str, process: str, *, named: bool = True) -> str:
    """With the process as people call it; not where a workload of its own names it."""
    name = f"{host}/{workload}" if workload else host
    called = name_of(process).removesuffix(".service")
    return name if not called or (named and workload not in ("", HOST_WORKLOAD)) else f"{name} ({called})"


def _peer(f: Flow) -> str:
    """Where its name hides the family, IPv6 is marked, as in `segctl denied`."""
    if not f.peer_host:
        return f.peer_address
    name = end_name(f.peer_host, f.peer_workload, f.peer_process)
    return f"{name}{IPV6}" if ":" in f.peer_address else name


def _why(f: Flow) -> Cell:
    if f.verdict == "denied":
        return bad(f"denied: {f.rule or 'no rule'}")
    if f.verdict == "would-deny":
        return warn("test: no rule")
    return f.rule or dim("observe" if f.verdict == "observed" else "earlier policy")


def render_rule_use(uses: Sequence[RuleUse], now: datetime, width: int, unused: bool = False) -> list[Line]:
    """Those with hits in a table (unless only the `unused` are asked for), then the rules of the policy in force
    without any."""
    hit = [] if unused else [use for use in uses if use.hits]
    never = [use.rule for use in uses if use.in_policy and not use.hits]
    rows: list[list[Cell]] = [
        [
            use.rule,
            f"{use.hits:,}",
            ago(use.last_hit, now),
            str(use.hosts),
            "" if use.in_policy else dim("no longer in the policy"),
        ]
        for use in hit
    ]
    lines = table(("RULE", "HITS", "LAST HIT", "HOSTS", ""), rows, width, right=("HITS", "HOSTS"))
    if never:
        lines += [line()] if lines else []
        total = sum(use.in_policy for use in uses)
        lines.append(line(bold("Never hit"), f", as far as hosts have told: {len(never)} of {count(total, 'rule')}"))
        lines += [line("  ", name) for name in never]
    return lines
