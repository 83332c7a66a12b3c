"""Denials, events and what was lost, in SQL: aggregated, idempotent and bounded."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from segctl_controller.store import rows
from segctl_controller.store.records import Batch, DenialFilter, DenialRecord, EventRecord, Limits
from segctl_controller.store.tables import cursors, denials, events, hosts, losses

HOUR_US = 3_600_000_000


def add_batch(connection: Connection, batch: Batch, limits: Limits) -> tuple[DenialRecord, ...] | None:
    """See Store.add_batch. The batch of a host that was just removed is dropped and counts as stored."""
    if not connection.scalar(select(func.count()).where(hosts.c.name == batch.host)):
        return ()
    cursor = connection.execute(select(cursors).where(cursors.c.host == batch.host)).mappings().first()
    if cursor and cursor["epoch"] == batch.epoch and cursor["sequence"] >= batch.sequence:
        return None
    place = {"epoch": batch.epoch, "sequence": batch.sequence}
    connection.execute(
        upsert(cursors).values(host=batch.host, **place).on_conflict_do_update(index_elements=["host"], set_=place)
    )
    next_id = (connection.scalar(select(func.max(denials.c.id))) or 0) + 1
    stored = []
    for denial in batch.denials:
        stored.append(_merge(connection, denial, next_id))
        next_id += 1
    if stored:
        _prune_denials(connection, limits.denials)
    for event in batch.events:
        add_event(connection, event, limits)
    if batch.lost:
        hour = batch.at_us - batch.at_us % HOUR_US
        statement = upsert(losses).values(host=batch.host, hour_us=hour, lost=batch.lost)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["host", "hour_us"], set_={"lost": losses.c.lost + statement.excluded.lost}
            )
        )
    return tuple(stored)


def _merge(connection: Connection, denial: DenialRecord, row_id: int) -> DenialRecord:
    statement = upsert(denials).values(
        id=row_id,
        host=denial.host,
        workload=denial.workload,
        key=denial.key,
        count=denial.count,
        first_us=denial.first_us,
        last_us=denial.last_us,
        body=denial.body,
    )
    new = statement.excluded
    merged = statement.on_conflict_do_update(
        index_elements=["host", "key"],
        set_={
            "id": new.id,
            "count": denials.c.count + new.count,
            "first_us": func.min(denials.c.first_us, new.first_us),
            "last_us": func.max(denials.c.last_us, new.last_us),
            "body": new.body,
        },
    ).returning(*denials.c)
    return rows.denial_of(dict(connection.execute(merged).mappings().one()))


def _prune_denials(connection: Connection, keep: int) -> None:
    """Ids have gaps (a merged row takes a new one), so rows are counted, not ids."""
    newest = select(denials.c.id).order_by(denials.c.id.desc()).offset(keep).limit(1)
    last_to_go = connection.scalar(newest)
    if last_to_go is not None:
        connection.execute(delete(denials).where(denials.c.id <= last_to_go))


def newest_denials(connection: Connection, wanted: DenialFilter) -> tuple[DenialRecord, ...]:
    query = select(denials).where(denials.c.last_us >= wanted.since_us)
    if wanted.host:
        query = query.where(denials.c.host == wanted.host)
    if wanted.workload:
        query = query.where(denials.c.workload == wanted.workload)
    found = connection.execute(query.order_by(denials.c.id.desc()).limit(wanted.limit)).mappings().all()
    return tuple(rows.denial_of(dict(row)) for row in reversed(found))


def lost(connection: Connection, host: str, since_us: int) -> int:
    query = select(func.coalesce(func.sum(losses.c.lost), 0)).where(losses.c.hour_us > since_us - HOUR_US)
    if host:
        query = query.where(losses.c.host == host)
    return int(connection.scalar(query) or 0)


def add_event(connection: Connection, event: EventRecord, limits: Limits) -> None:
    values = {
        "host": event.host,
        "kind": event.kind,
        "message": event.message,
        "at_us": event.at_us,
        "culprit_pid": event.culprit_pid,
        "culprit_name": event.culprit_name,
    }
    newest = connection.scalar(insert(events).values(values).returning(events.c.id)) or 0
    connection.execute(delete(events).where(events.c.id <= newest - limits.events))


def newest_events(connection: Connection, limit: int) -> tuple[EventRecord, ...]:
    found = connection.execute(select(events).order_by(events.c.id.desc()).limit(limit)).mappings()
    return tuple(
        EventRecord(row["host"], row["kind"], row["message"], row["at_us"], row["culprit_pid"], row["culprit_name"])
        for row in found
    )
