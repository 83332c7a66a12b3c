"""Who talks to whom and what the policy says of it, as text and for Graphviz; and who talks most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby

from segctl.cli.output import Cell, Line, ago, bad, bold, count, dim, good, line, printable, size, stamp, table, warn
from segctl.cli.views import Talker
from segctl.cli.views_map import FlowMap, MapEdge, MapEnd, MapReason

OUTSIDE, UNTAGGED = "outside", "no tags"
BYTES_FROM = 100
"""Columns of a terminal."""
VERDICTS = ("denied", "would-deny", "not-covered", "allowed")
"""The strictest first."""
WORDS = {"denied": "denied", "would-deny": "would be denied", "not-covered": "no rule", "allowed": "allowed"}
OBSERVED = "denied, only observed"
PAINT = {"denied": bad, "would-deny": warn, "not-covered": dim, "allowed": good}
LOOKS = {"denied": "color=red", "would-deny": "color=orange", "not-covered": "style=dashed", "allowed": ""}


def render_map(found: FlowMap, now: datetime, width: int) -> list[Line]:
    """One table for all, with a heading for each source: columns stand below one another over the whole map. On a
    terminal narrower than BYTES_FROM without the bytes, and with what went wrong on a line of its own."""
    if not found.edges:
        return []
    totals: dict[str, int] = {}
    for edge in found.edges:
        totals[name_of(edge.source)] = totals.get(name_of(edge.source), 0) + edge.flows
    ordered = sorted(found.edges, key=lambda e: (-totals[name_of(e.source)], name_of(e.source), -e.flows, -e.denied))
    wide = not width or width >= BYTES_FROM
    headers = ("", "TO", "SERVICE", "FLOWS", *(("BYTES",) if wide else ()), "LAST", "POLICY")
    cells = [_cells(edge, now, wide) for edge in ordered]
    heading, *rows = table(headers, cells, width, gap=2 if wide else 1, right=("FLOWS", "BYTES"))
    lines = [heading]
    for source, edges in groupby(zip(ordered, rows, strict=True), key=lambda pair: name_of(pair[0].source)):
        lines.append(line(bold(source)))
        for edge, row in edges:
            wrong = "" if wide else wrong_words(edge)
            lines += [row, line("      ", bad(wrong))] if wrong else [row]
    return [*lines, line(), *_summary(found)]


def _cells(edge: MapEdge, now: datetime, wide: bool) -> list[Cell]:
    octets: list[Cell] = [size(edge.bytes) if edge.bytes else dim("-")]
    return [
        "  →",
        _destination(edge),
        edge.service_name or edge.service,
        f"{edge.flows:,}",
        *(octets if wide else []),
        ago(edge.last_seen, now).removesuffix(" ago"),
        PAINT.get(edge.verdict, dim)("; ".join(filter(None, (policy_words(edge), wrong_words(edge) if wide else "")))),
    ]


def policy_words(edge: MapEdge) -> str:
    """`allowed: web-to-db`, `3 of 900 denied: no rule`."""
    counts = edge.verdicts
    of = {"denied": counts.denied, "would-deny": counts.would_deny, "not-covered": counts.not_covered}
    number = of.get(edge.verdict, 0)
    some = f"{number:,} of {edge.flows:,} " if 0 < number < edge.flows else ""
    concerned = _concerned(edge)
    bounded = edge.verdict == "not-covered" and concerned and all(r.reason == "boundary" for r in concerned)
    # What a boundary denies in the mode observe is no gap in the policy.
    words, why = some + (OBSERVED if bounded else WORDS.get(edge.verdict, edge.verdict)), _why(edge)
    return f"{words}: {why}" if why else words


def wrong_words(edge: MapEdge) -> str:
    """`7 refused; 20 escaped`: connections that were denied, and where policy and network differ."""
    escaped, misdropped = (edge.comparison.escaped, edge.comparison.misdropped) if edge.comparison else (0, 0)
    told = ((max(0, edge.denied - misdropped), "refused"), (escaped, "escaped"), (misdropped, "misdropped"))
    return "; ".join(f"{number:,} {what}" for number, what in told if number)


def _concerned(edge: MapEdge) -> list[MapReason]:
    return [reason for reason in edge.reasons if reason.verdict == edge.verdict]


def _why(edge: MapEdge) -> str:
    """The rules that allow it, or what denies it; empty where no rule is all there is to say."""
    names = list(dict.fromkeys(r.rule or ("no rule" if r.reason == "default" else r.reason) for r in _concerned(edge)))
    if edge.verdict == "not-covered":
        names = [name for name in names if name != "no rule"]
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def _destination(edge: MapEdge) -> Cell:
    """By the tags in which it differs from the source above it, where both have the same keys."""
    source, destination = edge.source.tags, edge.destination.tags
    if destination is None:
        return dim(name_of(edge.destination))
    if source is None or edge.destination.host or source.keys() != destination.keys():
        return name_of(edge.destination)
    differing = {key: value for key, value in destination.items() if source[key] != value}
    return name_of(MapEnd(differing)) if differing else dim("the same")


def name_of(end: MapEnd) -> str:
    """`app=shop env=prod`, `web1/shop-web (unit:nginx.service)`, `peer office 203.0.113.0/24`."""
    if end.tags is None:
        return " ".join(filter(None, (f"peer {end.peer}" if end.peer else OUTSIDE, end.network)))
    if end.host:
        name = f"{end.host}/{end.workload}" if end.workload else end.host
        return f"{name} ({end.process})" if end.process else name
    return " ".join(f"{key}={value}" for key, value in end.tags.items()) or UNTAGGED


def _summary(found: FlowMap) -> list[Line]:
    ends = {name_of(end) for edge in found.edges for end in (edge.source, edge.destination) if end.tags is not None}
    flows = sum(edge.flows for edge in found.edges)
    by = f"generation {found.generation}" if found.generation else "no policy"
    sums = f"{count(len(ends), 'group')}, {count(len(found.edges), 'edge')}, {count(flows, 'flow')}, judged by {by}"
    lines = [line(dim(sums))]
    edges = [edge for edge in found.edges if edge.comparison is not None]
    if edges and found.compared_since is not None:
        kinds = ("permitted", "rejected", "escaped", "misdropped")
        totals = {what: sum(getattr(edge.comparison, what) for edge in edges) for what in kinds}
        told = ", ".join(f"{number:,} {what}" for what, number in totals.items())
        when = stamp(found.compared_since)
        some = any(totals.values())
        lines.append(line(dim(f"Since {when}: {told}" if some else f"Nothing to compare with it yet: from {when} on")))
    if found.more_denied:
        lines.append(line(warn("There are more denied connections than were looked at: these are the newest")))
    if found.lost:
        lines.append(line(warn(f"{found.lost:,} more were accepted and counted, but are in no edge: too many")))
    return lines


def dot_lines(found: FlowMap) -> Iterator[str]:
    """A directed graph in the DOT language (https://graphviz.org/doc/info/lang.html), one edge for each pair and
    verdict, thicker with more flows. What is denied is red, what would be orange, what no rule covers dashed."""
    yield "digraph segctl {"
    yield "  rankdir=LR;"
    yield '  node [shape=box, style=rounded, fontname="sans-serif"];'
    yield '  edge [fontname="sans-serif", fontsize=10];'
    ends = [end for edge in found.edges for end in (edge.source, edge.destination)]
    outside = {name_of(end) for end in ends if end.tags is None}
    for name in sorted({name_of(end) for end in ends}):
        yield f"  {quoted(name)}{' [shape=ellipse, style=dashed]' if name in outside else ''};"
    pairs: dict[tuple[str, str, int], list[MapEdge]] = {}
    for edge in found.edges:
        rank = VERDICTS.index(edge.verdict) if edge.verdict in VERDICTS else 0
        pairs.setdefault((name_of(edge.source), name_of(edge.destination), rank), []).append(edge)
    for (source, destination, rank), edges in sorted(pairs.items()):
        services = ", ".join(sorted({edge.service_name or edge.service for edge in edges}))
        flows = sum(edge.flows for edge in edges)
        looks = [f"label={quoted(services)}", f"penwidth={1 + len(str(flows)) / 2:g}", LOOKS[VERDICTS[rank]]]
        yield f"  {quoted(source)} -> {quoted(destination)} [{', '.join(filter(None, looks))}];"
    yield "}"


def quoted(text: str) -> str:
    """A string of the DOT language, in which only the quote is special, and the backslash in labels."""
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
