"""Connections as both of their ends tell of them, for questions about processes.

    rows ── by near end, far end, service ──▶ told ─┬─ egress ──┬─▶ with the process that answered ─┐
                                                    │           └ join on (host, peer, service) ┐   ├─▶ connections
                                                    └─ ingress ─┴─▶ where nobody told the egress ───┘

Hosts tell of one connection in the same words, but for its time: so what the two ends of a pair of hosts told about one
service is about the same connections.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Integer,
    Select,
    and_,
    case,
    cast,
    func,
    literal,
    select,
    union_all,
)

from segctl_controller.flowstore.queries import (
    LAST,
    MINUTES,
    TOTALS,
    VERDICTS,
    Groups,
    merged,
    total,
    within,
)
from segctl_controller.flowstore.records import DAYS
from segctl_controller.flowstore.tables import rows

r = rows.c
A_DAY = 24 * MINUTES
NONE = literal(0, Integer)
IPV4 = literal(0xFFFF, BigInteger)
"""The upper half of the low 64 bits of an IPv4 address; the high 64 are 0."""
PAIR = ("host", "peer", "protocol", "port")
COUNTS = ("flows", "would_deny", "observed")
END = ("host", "tags", "workload", "process")


def _bit(number: ColumnElement[int]) -> ColumnElement[int]:
    """All bits of a group, each at its number, below 63."""
    shifted = cast(1, BigInteger).op("<<", return_type=BigInteger())(cast(number, Integer))
    return cast(func.bit_or(shifted), BigInteger)


def _raw(since_us: int, until_us: int) -> CTE:
    """One row for each near end, far end and service, as it was told. An address counts where no host held it."""
    zero = literal(0, BigInteger)
    high = case((r.peer == 0, r.remote_high), else_=zero).label("high")
    low = case((r.peer == 0, r.remote_low), else_=zero).label("low")
    key = (r.host, r.tags, r.workload, r.process, r.ingress, r.peer, r.peer_tags, high, low, r.protocol, r.port)
    seen = (
        func.max(r.peer_workload).label("listener"),
        func.min(r.first_us).label("first_us"),
        LAST,
        _bit((r.minute - r.minute % A_DAY) // A_DAY % DAYS).label("days"),
        _bit((r.minute % A_DAY - r.minute % MINUTES) // MINUTES).label("hours"),
    )
    query = select(*key, TOTALS[0], *VERDICTS, *TOTALS[1:], *seen).where(within(since_us, until_us))
    return query.group_by(*key).cte("raw")


def _told(since_us: int, until_us: int) -> CTE:
    """The same, but that flows of an unknown process are of the process that alone was seen to make, or to take, such
    ones."""
    raw = _raw(since_us, until_us).c
    far = [case((raw.ingress == 0, raw[name]), else_=0) for name in ("peer", "high", "low")]
    alike = (raw.host, raw.workload, raw.ingress, raw.protocol, raw.port, *far)
    known = func.nullif(raw.process, 0)
    lowest, highest = (extreme(known).over(partition_by=alike) for extreme in (func.min, func.max))
    process = func.coalesce(known, case((lowest == highest, lowest), else_=0)).label("process")
    named = select(*(process if column.name == "process" else column for column in raw)).cte("named").c
    key = [named[name] for name in (*END, "ingress", "peer", "peer_tags", "high", "low", "protocol", "port")]
    seen = (
        func.max(named.listener).label("listener"),
        func.min(named.first_us).label("first_us"),
        func.max(named.last_us).label("last_us"),
        *(cast(func.bit_or(named[name]), BigInteger).label(name) for name in ("days", "hours")),
    )
    sums = [total(named[name]).label(name) for name in (*COUNTS, "bytes_sent", "bytes_received")]
    return select(*key, *sums, *seen).group_by(*key).cte("told")


def _only(column: ColumnElement[int]) -> ColumnElement[int]:
    """Of a group the one number that is known; 0 where there is none, or several."""
    known = func.nullif(column, 0)
    return case((func.min(known) == func.max(known), func.max(known)), else_=NONE)


def _answers(told: CTE) -> CTE:
    """Of each pair of hosts and service, what the end that was called told."""
    pair = [told.c[name] for name in PAIR]
    sums = [total(told.c[name]).label(name) for name in COUNTS]
    who = [_only(told.c[name]).label(name) for name in ("workload", "process")]
    query = select(*pair, *who, *sums).where(told.c.ingress == 1, told.c.peer != 0)
    return query.group_by(*pair).cte("answers")


def _calls(told: CTE) -> CTE:
    """Of each pair of hosts and service, in how many rows the end that called told of it."""
    pair = [told.c[name] for name in PAIR]
    query = select(*pair, func.count().label("number")).where(told.c.ingress == 0, told.c.peer != 0)
    return query.group_by(*pair).cte("calls")


def _same(told: CTE, other: CTE, *, turned: bool) -> ColumnElement[bool]:
    host, peer = (other.c.peer, other.c.host) if turned else (other.c.host, other.c.peer)
    services = (told.c.protocol == other.c.protocol, told.c.port == other.c.port)
    return and_(told.c.host == host, told.c.peer == peer, *services)


def connections(since_us: int, until_us: int) -> CompoundSelect[Any]:
    """(host, tags, workload, process, ingress, peer, peer tags, peer workload, peer process, high, low, protocol, port,
    flows, would deny, observed, bytes sent, bytes received, first, last, days, hours).

    Where one process alone called, the end that saw more flows of the pair has seen all of them; where several did,
    how many were whose only their own end knows.
    """
    told = _told(since_us, until_us)
    answers, calls = _answers(told), _calls(told)
    place = [told.c[name] for name in ("high", "low", "protocol", "port")]
    rest = [told.c[name] for name in ("bytes_sent", "bytes_received", "first_us", "last_us", "days", "hours")]
    near = [told.c[name] for name in (*END, "ingress", "peer", "peer_tags")]

    def fuller(name: str) -> ColumnElement[int]:
        both = func.greatest(told.c[name], func.coalesce(answers.c[name], 0))
        return case((calls.c.number == 1, both), else_=told.c[name]).label(name)

    called = func.coalesce(func.nullif(answers.c.workload, 0), told.c.listener)
    far = (called.label("peer_workload"), func.coalesce(answers.c.process, 0).label("peer_process"))
    outgoing = (
        select(*near, *far, *place, *map(fuller, COUNTS), *rest)
        .select_from(
            told.outerjoin(answers, _same(told, answers, turned=True)).outerjoin(
                calls, _same(told, calls, turned=False)
            )
        )
        .where(told.c.ingress == 0)
    )
    nobody = (NONE.label("peer_workload"), NONE.label("peer_process"))
    incoming = (
        select(*near, *nobody, *place, *(told.c[name] for name in COUNTS), *rest)
        .select_from(told.outerjoin(calls, _same(told, calls, turned=True)))
        .where(told.c.ingress == 1, calls.c.number.is_(None))
    )
    return union_all(outgoing, incoming)


def mapped_by_process(since_us: int, until_us: int, limit: int, groups: Groups) -> Select[Any]:
    """(tags, peer tags, ingress, protocol, port, flows, would-deny, observed, bytes sent, received, last, process, peer
    process), most flows first."""
    c = connections(since_us, until_us).cte("connections")
    tags, peer_tags, joined = merged(groups, c, c.c.tags, c.c.peer_tags)
    key = (tags, peer_tags, c.c.ingress, c.c.protocol, c.c.port)
    processes = (c.c.process, c.c.peer_process)
    sums = [total(c.c[name]).label(name) for name in (*COUNTS, "bytes_sent", "bytes_received")]
    query = select(*key, *sums, func.max(c.c.last_us), *processes).select_from(joined).group_by(*key, *processes)
    return query.order_by(sums[0].desc(), *key, *processes).limit(limit)


def observations(since_us: int, until_us: int, limit: int) -> Select[Any]:
    """(ingress, tags, workload, process, peer tags, peer workload, peer process, protocol, port, lowest high, lowest
    low, addresses, hosts, peers, flows, would-deny, observed, first, last, days, hours), most hosts first."""
    c = connections(since_us, until_us).cte("connections").c
    mapped = and_(c.high == 0, cast(c.low.op(">>")(literal(32, Integer)), BigInteger) == IPV4)
    # Of /24 networks of IPv4; of IPv6 the high half is the /64.
    network = case((mapped, c.low - c.low % 256), else_=literal(0, BigInteger)).label("network")
    key = (c.ingress, c.tags, c.workload, c.process, c.peer_tags, c.peer_workload, c.peer_process, c.protocol, c.port)
    hosts, peers = (func.count(column.distinct()) for column in (c.host, c.peer))
    measures = (
        func.min(c.low),
        func.count(c.low.distinct()),
        hosts.label("hosts"),
        peers.label("peers"),
        *(total(c[name]).label(name) for name in COUNTS),
        func.min(c.first_us),
        func.max(c.last_us),
        cast(func.bit_or(c.days), BigInteger),
        cast(func.bit_or(c.hours), BigInteger),
    )
    query = select(*key, c.high, *measures).group_by(*key, c.high, network)
    return query.order_by(hosts.desc(), func.sum(c.flows).desc(), *key).limit(limit)
