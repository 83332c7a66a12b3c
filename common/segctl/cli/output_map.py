"""Who talks to whom between tag groups, as text and for Graphviz; and who talks most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby

from segctl.cli.output import Cell, Line, ago, bold, count, dim, line, printable, size, table, warn
from segctl.cli.views import FlowMap, MapEdge, Talker

OUTSIDE, UNTAGGED = "outside", "no tags"
HEADERS = ("", "TO", "SERVICE", "FLOWS", "BYTES", "LAST", "")
COUNTS = ("FLOWS", "BYTES")
Group = Mapping[str, str] | None


def render_map(found: FlowMap, now: datetime, width: int) -> list[Line]:
    """One table for all, with a heading for each source: columns stand below one another over the whole map."""
    if not found.edges:
        return []
    totals: dict[str, int] = {}
    for edge in found.edges:
        source = group(edge.source)
        totals[source] = totals.get(source, 0) + edge.flows
    ordered = sorted(found.edges, key=lambda e: (-totals[group(e.source)], group(e.source), -e.flows))
    heading, *rows = table(HEADERS, [_cells(edge, now) for edge in ordered], width, gap=2, right=COUNTS)
    lines = [heading]
    for source, edges in groupby(zip(ordered, rows, strict=True), key=lambda pair: group(pair[0].source)):
        lines.append(line(bold(source)))
        lines += [row for _, row in edges]
    groups = {group(end) for edge in found.edges for end in (edge.source, edge.destination) if end is not None}
    flows = sum(totals.values())
    summary = f"{count(len(groups), 'tag group')}, {count(len(found.edges), 'edge')}, {count(flows, 'flow')}"
    lines += [line(), line(dim(summary))]
    if found.lost:
        lines.append(line(warn(f"{found.lost:,} more were accepted and counted, but are in no edge: too many")))
    return lines


def _cells(edge: MapEdge, now: datetime) -> list[Cell]:
    return [
        "  →",
        _destination(edge),
        edge.service_name or edge.service,
        f"{edge.flows:,}",
        size(edge.bytes) if edge.bytes else dim("-"),
        ago(edge.last_seen, now),
        _remark(edge),
    ]


def _destination(edge: MapEdge) -> Cell:
    """By the tags in which it differs from the source above it, where both have the same keys."""
    source, destination = edge.source, edge.destination
    if destination is None:
        return dim(OUTSIDE)
    if source is None or source.keys() != destination.keys():
        return group(destination)
    differing = {key: value for key, value in destination.items() if source[key] != value}
    return group(differing) if differing else dim("the same")


def _remark(edge: MapEdge) -> Cell:
    if edge.would_deny:
        return warn(f"{edge.would_deny:,} would be denied")
    return dim("observed" if edge.observed == edge.flows else f"{edge.observed:,} observed" if edge.observed else "")


def group(tags: Group) -> str:
    """`app=shop env=prod`."""
    if tags is None:
        return OUTSIDE
    return " ".join(f"{key}={value}" for key, value in tags.items()) or UNTAGGED


def dot_lines(found: FlowMap) -> Iterator[str]:
    """A directed graph in the DOT language (https://graphviz.org/doc/info/lang.html), one edge for each pair; thicker
    with more flows. What would be denied is red, what is only observed dashed."""
    yield "digraph segctl {"
    yield "  rankdir=LR;"
    yield '  node [shape=box, style=rounded, fontname="sans-serif"];'
    yield '  edge [fontname="sans-serif", fontsize=10];'
    yield f"  {_quoted(OUTSIDE)} [shape=ellipse, style=dashed];"
    pairs: dict[tuple[str, str], list[MapEdge]] = {}
    for edge in found.edges:
        pairs.setdefault((group(edge.source), group(edge.destination)), []).append(edge)
    for (source, destination), edges in sorted(pairs.items()):
        services = ", ".join(dict.fromkeys(edge.service_name or edge.service for edge in edges))
        flows = sum(edge.flows for edge in edges)
        looks = [f"label={_quoted(services)}", f"penwidth={1 + len(str(flows)) / 2:g}"]
        if any(edge.would_deny for edge in edges):
            looks.append("color=red")
        elif all(edge.observed == edge.flows for edge in edges):
            looks.append("style=dashed")
        yield f"  {_quoted(source)} -> {_quoted(destination)} [{', '.join(looks)}];"
    yield "}"


def _quoted(text: str) -> str:
    return '"' + printable(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def render_talkers(found: Sequence[Talker], now: datetime, width: int) -> list[Line]:
    rows: list[list[Cell]] = [
        [
            f"{one.host}/{one.workload}",
            size(one.bytes_sent) if one.bytes_sent else dim("-"),
            size(one.bytes_received) if one.bytes_received else dim("-"),
            f"{one.flows:,}",
            ago(one.last_seen, now),
        ]
        for one in found
    ]
    return table(
        ("HOST/WORKLOAD", "SENT", "RECEIVED", "FLOWS", "LAST"), rows, width, right=("SENT", "RECEIVED", "FLOWS")
    )
