"""The question behind the map, as one statement for every engine: who talked to whom, as far as a policy tells them
apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Integer,
    Select,
    and_,
    case,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
)

from segctl_controller.flowstore.queries import LAST, TOTALS, VERDICTS, Groups, among, merged, total, unnested, within
from segctl_controller.flowstore.records import MINUTE_US, EndFilter, MapFilter
from segctl_controller.flowstore.tables import rows

r = rows.c
MANAGED = -1
"""The range of a remote address that an enrolled host held."""
BEYOND_24, BEYOND_48 = 0xFF, 0xFFFF
"""Bits that are not in the prefix: of the low half of an IPv4 address, of the high half of an IPv6 address."""
Point = tuple[int, int]


SUMMED = ("flows", "would_deny", "observed", "fresh", "octets")


def told(wanted: MapFilter) -> Select[Any]:
    """Rows with the same tag groups, workloads, range and service, and what else is asked for, as one; see `mapped`."""
    place = case((r.peer == 0, _place(wanted.starts)), else_=literal(MANAGED, Integer)).label("place")
    key: list[ColumnElement[Any]] = [r.tags, r.workload, r.ingress, r.peer_tags, r.peer_workload, place]
    key += [r.protocol, r.port]
    high, low = _block() if wanted.blocks else (None, None)
    host, peer = (r.host, r.peer) if wanted.hosts else (None, None)
    asked = {
        "block_high": high,
        "block_low": low,
        "host": host,
        "peer": peer,
        "process": r.process if wanted.processes else None,
        "span": _span(wanted.span_us) if wanted.span_us else None,
    }
    key += [column.label(name) for name, column in asked.items() if column is not None]
    others = [literal(0, Integer).label(name) for name, column in asked.items() if column is None]
    fresh = total(case((r.first_us >= wanted.fresh_us, r.flows), else_=0)) if wanted.fresh_us else TOTALS[0]
    octets = total(r.bytes_sent + r.bytes_received).label("octets")
    sums = (TOTALS[0], *VERDICTS, fresh.label("fresh"), octets, LAST)
    query = select(*key, *others, *sums).where(within(wanted.since_us, wanted.until_us)).group_by(*key)
    for column, value in ((r.protocol, wanted.protocol), (r.port, wanted.port)):
        query = query if value is None else query.where(column == value)
    return query


def mapped(told: Select[Any], groups: Groups, limit: int) -> Select[Any]:
    """(tags, workload, ingress, peer tags, peer workload, range, protocol, port, halves of the block, host, peer,
    process, span, flows, would-deny, observed, fresh, octets, last), most flows first. What is not asked for is 0."""
    c = told.cte("told")
    tags, peer_tags, joined = merged(groups, c, c.c.tags, c.c.peer_tags)
    names = ("peer_workload", "place", "protocol", "port", "block_high", "block_low", "host", "peer", "process", "span")
    both = (tags.label("near_group"), c.c.workload, c.c.ingress, peer_tags.label("far_group"))
    key = (*both, *(c.c[name] for name in names))
    sums = [total(c.c[name]).label(name) for name in SUMMED]
    query = select(*key, *sums, func.max(c.c.last_us)).select_from(joined).group_by(*key)
    return query.order_by(sums[0].desc(), *key).limit(limit)


def _place(starts: Sequence[Point]) -> ColumnElement[int]:
    """In which of the ranges the remote address lies. Written as text: of thousands of ranges SQLAlchemy makes so many
    objects that they take longer than the question."""
    return literal_column(_search(starts, 0, len(starts) - 1), Integer)


def _search(starts: Sequence[Point], low: int, high: int) -> str:
    """By halves."""
    if low == high:
        return str(low)
    middle = (low + high + 1) // 2
    below, rest = _search(starts, low, middle - 1), _search(starts, middle, high)
    return f"CASE WHEN {_below(starts[middle])} THEN {below} ELSE {rest} END"


def _below(point: Point) -> str:
    high, low = point
    if low == -(2**63):
        return f"{r.remote_high} < {high}"
    return f"({r.remote_high} < {high} OR ({r.remote_high} = {high} AND {r.remote_low} < {low}))"


def _block() -> tuple[ColumnElement[int], ColumnElement[int]]:
    """The halves of the /24 or /48 around the remote address; of enrolled hosts 0."""
    none = literal(0, BigInteger)
    ipv4 = and_(r.remote_high == 0, r.remote_low.between(0xFFFF << 32, (0xFFFF << 32) + 0xFFFFFFFF))
    high = r.remote_high.op("&")(literal(~BEYOND_48, BigInteger))
    low = r.remote_low.op("&")(literal(~BEYOND_24, BigInteger))
    held = r.peer != 0
    return case((or_(held, ipv4), none), else_=high), case((held, none), (ipv4, low), else_=none)


def _span(length_us: int) -> ColumnElement[int]:
    return r.minute - r.minute % (length_us // MINUTE_US)


@dataclass(frozen=True, slots=True)
class NumberedEnd:
    """An end that is asked for, with the numbers of its tag groups (0: outside), and of the names in it."""

    wanted: EndFilter
    groups: list[int]
    names: Mapping[str, int]


def of_ends(
    query: Select[Any], source: NumberedEnd | None, destination: NumberedEnd | None, starts: Sequence[Point]
) -> Select[Any]:
    """Only flows from `source` to `destination`, whichever of them told."""
    for end, told_by_it in ((source, 0), (destination, 1)):
        query = query.where(*_conditions(end, r.ingress == told_by_it, starts)) if end else query
    return query


def _conditions(end: NumberedEnd, near: ColumnElement[bool], starts: Sequence[Point]) -> Iterator[ColumnElement[bool]]:
    """`near`: this end is the one that told. Who listens at the other end may not be known, and its process is not."""
    groups = unnested(number=end.groups)
    yield or_(and_(near, r.tags.in_(groups)), and_(~near, r.peer_tags.in_(groups)))
    wanted, names = end.wanted, end.names
    if wanted.host:
        yield case((near, r.host), else_=r.peer) == names[wanted.host]
    if wanted.workload:
        yield case((near, r.workload), else_=r.peer_workload).in_((names[wanted.workload], 0))
    if wanted.process:
        yield or_(~near, r.process == names[wanted.process])
    if wanted.places is not None:
        yield or_(false(), *_spans(sorted(wanted.places), starts))
    if wanted.block is not None:
        yield among(*wanted.block)


def _spans(places: Sequence[int], starts: Sequence[Point]) -> Iterator[ColumnElement[bool]]:
    """One condition for each run of adjacent ranges."""
    for _, run in groupby(enumerate(places), key=lambda pair: pair[1] - pair[0]):
        adjacent = [place for _, place in run]
        first, beyond = adjacent[0], adjacent[-1] + 1
        conditions = [f"NOT {_below(starts[first])}"] if first else []
        conditions += [_below(starts[beyond])] if beyond < len(starts) else []
        yield literal_column(" AND ".join(conditions) or "TRUE", Boolean)
