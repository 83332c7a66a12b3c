"""Accepted flows by the hour, in SQL: summed as they come, bounded by age and by rows, joined with their other end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, select

from segctl_controller.store.dialect import greatest, least, sum_of, upsert
from segctl_controller.store.records import Batch, FarEnd, FlowFilter, FlowKey, FlowRecord, FlowVerdict, Limits
from segctl_controller.store.tables import flow_losses, flows

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
LARGEST_COUNT = 2**53
"""Counts stop here: what a host says must not add up to a number that SQLite turns into a float."""
SUMS = ("flows", "bytes_sent", "bytes_received")
KEY = tuple(column.name for column in flows.primary_key.columns)
SLACK = 20
"""Rows are counted once a twentieth of the limit came in: counting a million takes longer than storing a batch."""


class FlowTable:
    """Remembers how many rows came in since it last counted them, and the oldest hour that is kept. Both are hints:
    what a transaction that failed left undone, the next hour or the next twentieth makes up for."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._unchecked = limits.flows
        self._oldest = 0

    def add(self, connection: Connection, batch: Batch) -> None:
        if batch.flows:
            connection.execute(_merging(connection), [_values(flow) for flow in batch.flows])
        if batch.flows_lost:
            lose(connection, batch.host, hour_of(batch.at_us), batch.flows_lost)
        oldest = hour_of(batch.at_us - self._limits.flow_days * DAY_US)
        if oldest != self._oldest:
            connection.execute(delete(flows).where(flows.c.hour_us < oldest))
            connection.execute(delete(flow_losses).where(flow_losses.c.hour_us < oldest))
            self._oldest = oldest
        self._unchecked += len(batch.flows)
        if self._unchecked >= max(1, self._limits.flows // SLACK):
            _prune(connection, self._limits.flows)
            self._unchecked = 0


def hour_of(at_us: int) -> int:
    return at_us - at_us % HOUR_US


def _merging(connection: Connection) -> Any:  # noqa: ANN401 - SQLAlchemy's own type is not public
    statement = upsert(connection, flows)
    new = statement.excluded
    merged: dict[str, Any] = {name: least(flows.c[name] + new[name], LARGEST_COUNT) for name in SUMS}
    merged["first_us"] = least(flows.c.first_us, new.first_us)
    merged["last_us"] = greatest(flows.c.last_us, new.last_us)
    return statement.on_conflict_do_update(index_elements=KEY, set_=merged)


def _values(flow: FlowRecord) -> dict[str, Any]:
    key = flow.key
    return {
        "hour_us": hour_of(flow.last_us),
        "host": key.host,
        "remote": key.remote,
        "port": key.port,
        "protocol": key.protocol,
        "ingress": int(key.ingress),
        "workload": key.workload,
        "rule": key.rule,
        "verdict": int(key.verdict),
        "flows": flow.flows,
        "bytes_sent": flow.bytes_sent,
        "bytes_received": flow.bytes_received,
        "first_us": flow.first_us,
        "last_us": flow.last_us,
    }


def lose(connection: Connection, host: str, hour_us: int, lost: int) -> None:
    statement = upsert(connection, flow_losses).values(host=host, hour_us=hour_us, lost=lost)
    total = least(flow_losses.c.lost + statement.excluded.lost, LARGEST_COUNT)
    connection.execute(statement.on_conflict_do_update(index_elements=["host", "hour_us"], set_={"lost": total}))


def _prune(connection: Connection, keep: int) -> None:
    """Whole hours, the oldest first, of the host that has most rows: a host that floods pushes out its own."""
    excess = (connection.scalar(select(func.count()).select_from(flows)) or 0) - keep
    while excess > 0:
        most = select(flows.c.host).group_by(flows.c.host).order_by(func.count().desc(), flows.c.host).limit(1)
        host = connection.execute(most).scalar_one()
        hours = select(flows.c.hour_us, func.count(), _total(flows.c.flows)).where(flows.c.host == host)
        oldest = hours.group_by(flows.c.hour_us).order_by(flows.c.hour_us).limit(1)
        hour, rows, told = connection.execute(oldest).one()
        connection.execute(delete(flows).where(flows.c.hour_us == hour, flows.c.host == host))
        if told:
            lose(connection, host, hour, int(told))
        excess -= rows


def sums(connection: Connection, wanted: FlowFilter) -> tuple[FlowRecord, ...]:
    key = [flows.c[name] for name in KEY if name != "hour_us"]
    last = func.max(flows.c.last_us).label("last_us")
    totals = [_total(flows.c[name]).label(name) for name in SUMS]
    query = select(*key, *totals, func.min(flows.c.first_us).label("first_us"), last)
    query = query.where(flows.c.hour_us > wanted.since_us - HOUR_US, flows.c.last_us >= wanted.since_us)
    for column, text in ((flows.c.host, wanted.host), (flows.c.workload, wanted.workload), (flows.c.rule, wanted.rule)):
        if text:
            query = query.where(column == text)
    found = connection.execute(query.group_by(*key).order_by(last.desc(), *key).limit(wanted.limit)).mappings().all()
    return tuple(_record(dict(row)) for row in reversed(found))


def _record(row: dict[str, Any]) -> FlowRecord:
    key = FlowKey(
        row["host"],
        row["workload"],
        bool(row["ingress"]),
        row["remote"],
        row["protocol"],
        row["port"],
        row["rule"],
        FlowVerdict(row["verdict"]),
    )
    sent, received = int(row["bytes_sent"]), int(row["bytes_received"])
    return FlowRecord(key, int(row["flows"]), sent, received, row["first_us"], row["last_us"])


def _total(column: ColumnElement[int]) -> ColumnElement[int]:
    """Of at most LARGEST_COUNT, and never an overflow: SQLite's sum() fails beyond 2**63."""
    return least(sum_of(column), LARGEST_COUNT)


def lost(connection: Connection, host: str, since_us: int) -> int:
    query = select(_total(flow_losses.c.lost)).where(flow_losses.c.hour_us > since_us - HOUR_US)
    if host:
        query = query.where(flow_losses.c.host == host)
    return int(connection.scalar(query) or 0)


def far_ends(connection: Connection, asked: Sequence[FarEnd]) -> tuple[str, ...]:
    """Each a few seeks in the primary key. The two ends tell of a flow at about the same time, so neighbouring hours
    are looked at too."""
    answers = []
    for one in asked:
        hour = hour_of(one.last_us)
        query = select(flows.c.workload).where(
            flows.c.hour_us.in_((hour - HOUR_US, hour, hour + HOUR_US)),
            flows.c.host == one.host,
            flows.c.remote.in_(one.remotes),
            flows.c.port == one.port,
            flows.c.protocol == one.protocol,
            flows.c.ingress == int(one.ingress),
        )
        names = connection.scalars(query.distinct().limit(2)).all()
        answers.append(names[0] if len(names) == 1 else "")
    return tuple(answers)
