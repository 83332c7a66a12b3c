"""The questions to the flow store, each one statement for every engine. Numbers of names are in and out; the store
translates them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
    Join,
    Label,
    Select,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal,
    select,
    true,
)

from segctl_controller.flowstore.columns import split_remote
from segctl_controller.flowstore.records import DAY_US, HOUR_US, LARGEST_COUNT, MINUTE_US, FlowFilter, FlowVerdict
from segctl_controller.flowstore.tables import SUMS, losses, rows

r = rows.c
MINUTES = 60
"""Of an hour."""
MOST_ENDS = 200_000
DAY = cast(func.floor(r.minute / float(24 * MINUTES)), Integer)
"""Of a row, since 1970. Integers divide to integers in PostgreSQL and to floats in DuckDB, so floats do."""
LAST = func.max(r.last_us).label("last_us")
WIRE_KEY = (
    r.host,
    r.workload,
    r.process,
    r.ingress,
    r.remote_high,
    r.remote_low,
    r.protocol,
    r.port,
    r.rule,
    r.verdict,
    r.peer,
)


def total(column: ColumnElement[int]) -> ColumnElement[int]:
    """Of at most LARGEST_COUNT: the sum itself is wider than 64 bits in both engines."""
    return cast(func.least(func.coalesce(func.sum(column), 0), LARGEST_COUNT), BigInteger)


def of_verdict(verdict: FlowVerdict) -> ColumnElement[int]:
    """Flows with it."""
    return total(case((r.verdict == int(verdict), r.flows), else_=0))


TOTALS = tuple(total(column).label(column.name) for column in SUMS)
VERDICTS = (of_verdict(FlowVerdict.WOULD_DENY).label("would_deny"), of_verdict(FlowVerdict.OBSERVED).label("observed"))


def within(since_us: int, until_us: int) -> ColumnElement[bool]:
    """Rows that tell of this time; a row of an hour is at its first minute."""
    seen = and_(r.minute > since_us // MINUTE_US - MINUTES, r.last_us >= since_us)
    return and_(seen, r.minute <= until_us // MINUTE_US, r.first_us <= until_us) if until_us else seen


def search(
    wanted: FlowFilter,
    host: int | None,
    workload: int | None,
    rule: int | None,
    processes: Sequence[int] | None = None,
) -> Select[Any]:
    """Of WIRE_KEY, the sums, the first and the last time, and the peer's workload; the newest first. `processes` None:
    all."""
    last = func.max(r.last_us).label("last_us")
    others = (func.min(r.first_us).label("first_us"), last, func.max(r.peer_workload).label("peer_workload"))
    query = select(*WIRE_KEY, *TOTALS, *others).where(within(wanted.since_us, wanted.until_us))
    exact = ((r.host, host), (r.workload, workload), (r.rule, rule), (r.protocol, wanted.protocol))
    for column, value in (*exact, (r.port, wanted.port), (r.verdict, wanted.verdict)):
        if value is not None:
            query = query.where(column == int(value))
    if processes is not None:
        query = query.where(r.process.in_(processes))
    if wanted.low:
        query = query.where(among(wanted.low, wanted.high))
    return query.group_by(*WIRE_KEY).order_by(last.desc(), *WIRE_KEY).limit(wanted.limit)


def among(low: bytes, high: bytes) -> ColumnElement[bool]:
    """Addresses of a network. A half in which they differ in sign is one in which they may differ in all bits."""
    (low_high, low_low), (high_high, high_low) = split_remote(low), split_remote(high)
    if low_high != high_high:
        return r.remote_high.between(low_high, high_high) if low_high < high_high else true()
    same = r.remote_high == low_high
    return and_(same, r.remote_low.between(low_low, high_low)) if low_low <= high_low else same


def far_ends(hosts: Sequence[int], remotes: Sequence[bytes], first_us: int, last_us: int) -> Select[Any]:
    """(host, ingress, high, low, protocol, port, workload, process, hour) that these hosts told about these remotes."""
    halves = [split_remote(remote) for remote in remotes]
    hour = (r.minute - r.minute % MINUTES).label("hour")
    columns = (r.host, r.ingress, r.remote_high, r.remote_low, r.protocol, r.port, r.workload, r.process, hour)
    told = and_(
        r.minute >= first_us // MINUTE_US - 2 * MINUTES,
        r.minute <= last_us // MINUTE_US + 2 * MINUTES,
        r.host.in_(hosts),
        r.remote_low.in_([low for _, low in halves]),
        r.remote_high.in_({high for high, _ in halves}),
    )
    return select(*columns).where(told).distinct().limit(MOST_ENDS)


def talkers(since_us: int, until_us: int, limit: int) -> Select[Any]:
    """(host, workload, flows, sent, received, last), those with most bytes first, and with most flows where none are
    counted."""
    octets = func.sum(r.bytes_sent) + func.sum(r.bytes_received)
    query = select(r.host, r.workload, *TOTALS, LAST).where(within(since_us, until_us)).group_by(r.host, r.workload)
    return query.order_by(octets.desc(), func.sum(r.flows).desc(), r.host, r.workload).limit(limit)


Joined = tuple[Label[int], Callable[[ColumnElement[int]], ColumnElement[int]]]
"""A column, and what makes one of several of them."""
Into = Mapping[tuple[int, int, int], int]
"""By tag group, workload and process: the workload that has it today (segctl_controller.flowstore.claiming)."""
Groups = Mapping[int, int]
"""By tag group, the one that stands for it: all that do not differ in the tags asked for."""


def merged(
    groups: Groups, joined: FromClause, tags: ColumnElement[int], peer_tags: ColumnElement[int]
) -> tuple[ColumnElement[int], ColumnElement[int], Join]:
    """The columns for the tags of both ends, and `joined` with them."""
    pairs = unnested(number=list(groups), into_group=list(groups.values())).cte("merged")
    near, far = pairs.alias("near"), pairs.alias("far")
    both = joined.join(near, tags == near.c.number).join(far, peer_tags == far.c.number)
    return near.c.into_group, far.c.into_group, both


def unnested(**columns: list[int]) -> Select[Any]:
    """Lists of numbers as columns of rows."""
    return select(
        *(
            func.unnest(cast(bindparam(None, values, ARRAY(Integer)), ARRAY(Integer))).label(name)
            for name, values in columns.items()
        )
    )


def judged_alike(since_us: int, until_us: int, limit: int, groups: Groups, claimed: Into) -> Select[Any]:
    """(tags, workload, ingress, peer tags, high, low, protocol, port, flows, last, a host, a peer), under names that
    differ. The address counts where no host held it."""
    return _alike(since_us, until_us, limit, groups, claimed, ())


def kinds(since_us: int, until_us: int, limit: int, groups: Groups, claimed: Into, marks: Sequence[int]) -> Select[Any]:
    """Like `judged_alike`, then a process, a bitmap of the days from that of `since_us` on, and the flows since each
    mark."""
    day = func.greatest(DAY - since_us // DAY_US, 0)
    flows = [total(case((r.last_us >= mark, r.flows), else_=0)) for mark in marks]
    more: list[Joined] = [
        (func.coalesce(func.max(r.process), 0).label("process"), func.max),
        (func.bit_or(cast(1, BigInteger).op("<<")(day)).label("days"), func.bit_or),
        *((column.label(f"since_{at}"), total) for at, column in enumerate(flows)),
    ]
    return _alike(since_us, until_us, limit, groups, claimed, more)


def _alike(
    since_us: int,
    until_us: int,
    limit: int,
    groups: Groups,
    claimed: Into,
    more: Sequence[Joined],
) -> Select[Any]:
    none = literal(0, BigInteger)
    high = case((r.peer == 0, r.remote_high), else_=none).label("high")
    low = case((r.peer == 0, r.remote_low), else_=none).label("low")
    process = (r.process.label("claimant"),) if claimed else ()
    both_groups = (r.tags, r.peer_tags, r.workload, r.ingress, high, low, r.protocol, r.port, *process)
    examples = (func.min(r.host).label("host"), func.min(r.peer).label("peer"))
    measures = (TOTALS[0], LAST, *examples, *(column for column, _ in more))
    told = by_group(rows, both_groups, measures, within(since_us, until_us))
    seen, workload = _with_claims(told, claimed)
    tags, peer_tags, joined = merged(groups, seen, told.c.tags, told.c.peer_tags)
    c = told.c
    both = (tags.label("near_group"), workload, c.ingress, peer_tags.label("far_group"))
    key = (*both, c.high, c.low, c.protocol, c.port)
    flows = total(c.flows).label("flows")
    others = (func.max(c.last_us).label("last_us"), func.min(c.host).label("host"), func.min(c.peer).label("peer"))
    further = [join(c[column.name]).label(column.name) for column, join in more]
    query = select(*key, flows, *others, *further).select_from(joined).group_by(*key)
    return query.order_by(flows.desc()).limit(limit)


def _with_claims(told: CTE, claimed: Into) -> tuple[FromClause, ColumnElement[int]]:
    """What was told, and the column of the workload that has each today. It is joined when it is summed: a hundred rows
    less for each that is left."""
    if not claimed:
        return told, told.c.workload
    tags, workloads, processes = (list(column) for column in zip(*claimed, strict=True))
    lists = {"tags": tags, "workload": workloads, "process": processes, "now": list(claimed.values())}
    c = unnested(**lists).cte("claimed").c
    these = and_(told.c.tags == c.tags, told.c.workload == c.workload, told.c.claimant == c.process)
    return told.outerjoin(c.tags.table, these), func.coalesce(c.now, told.c.workload).label("workload")


def by_group(these: FromClause, key: Sequence[Any], sums: Sequence[Any], seen: ColumnElement[bool]) -> CTE:
    """What was `seen`, summed by both tag groups before it is joined with those that stand for them: a hundred rows
    less to join for each that is left."""
    return select(*key, *sums).select_from(these).where(seen).group_by(*key).cte("told")


def used(since_us: int, until_us: int, limit: int, rules: Sequence[int], groups: Groups) -> Select[Any]:
    """Of rules (rule, tags, workload, ingress, peer tags, peer workload, protocol, port, flows), most flows first."""
    tags, peer_tags, joined = merged(groups, rows, r.tags, r.peer_tags)
    key = (r.rule, tags, r.workload, r.ingress, peer_tags, r.peer_workload, r.protocol, r.port)
    permitted = (r.rule.in_(rules), r.verdict == int(FlowVerdict.ALLOWED), within(since_us, until_us))
    query = select(*key, TOTALS[0]).select_from(joined).where(*permitted)
    return query.group_by(*key).order_by(TOTALS[0].desc(), *key).limit(limit)


def days_of_rules(*these: ColumnElement[bool]) -> Select[Any]:
    """(rule, day) of rows."""
    return select(r.rule, DAY.label("day")).where(r.rule != 0, r.verdict == int(FlowVerdict.ALLOWED), *these).distinct()


def outside(since_us: int, until_us: int, limit: int) -> Select[Any]:
    """(high, low) of addresses that no host held."""
    query = select(r.remote_high, r.remote_low).where(within(since_us, until_us), r.peer == 0)
    return query.distinct().order_by(r.remote_high, r.remote_low).limit(limit)


def lost(host: int | None, since_us: int) -> Select[Any]:
    query = select(total(losses.c.lost)).where(losses.c.hour > since_us // HOUR_US - 1)
    return query if host is None else query.where(losses.c.host == host)


def hours_of(hosts: Sequence[int]) -> Select[Any]:
    """(host, hour, flows, rows in this hour and the newer ones)."""
    hour = cast(r.minute - r.minute % MINUTES, Integer).label("hour")
    counted = select(r.host, hour, TOTALS[0], func.count().label("number")).where(r.host.in_(hosts))
    by_hour = counted.group_by(r.host, hour).subquery()
    newer = func.sum(by_hour.c.number).over(partition_by=by_hour.c.host, order_by=by_hour.c.hour.desc())
    return select(by_hour.c.host, by_hour.c.hour, by_hour.c.flows, newer)
