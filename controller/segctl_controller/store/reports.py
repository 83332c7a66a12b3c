"""Reports in SQL, stored once; and the denials and events of them: aggregated and bounded."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Table, delete, func, insert, select

from segctl_controller.store import hits, rows
from segctl_controller.store.dialect import greatest, least, sum_of, upsert
from segctl_controller.store.records import (
    HOUR_US,
    LARGEST_COUNT,
    Batch,
    DenialFilter,
    DenialRecord,
    EventRecord,
    Limits,
    of_each_key,
)
from segctl_controller.store.tables import cursors, denials, events, hosts, losses


def add_batch(connection: Connection, batch: Batch, limits: Limits) -> tuple[DenialRecord, ...] | None:
    """See Store.add_batch. The batch of a host that was just removed is dropped and counts as stored."""
    if not connection.scalar(select(func.count()).where(hosts.c.name == batch.host)):
        return ()
    stored_up_to = select(cursors.c.sequence).where(cursors.c.host == batch.host, cursors.c.epoch == batch.epoch)
    if (connection.scalar(stored_up_to) or 0) >= batch.sequence:
        return None
    place = {"epoch": batch.epoch, "sequence": batch.sequence}
    connection.execute(
        upsert(connection, cursors)
        .values(host=batch.host, **place)
        .on_conflict_do_update(index_elements=["host"], set_=place)
    )
    newest = connection.scalar(select(func.max(denials.c.id))) or 0 if batch.denials else 0
    stored = _merge(connection, of_each_key(batch.denials), newest + 1) if batch.denials else ()
    _prune(connection, denials, limits.denials, newest, newest + len(stored))
    hits.add(connection, batch.hits)
    for event in batch.events:
        add_event(connection, event, limits)
    if batch.lost:
        hour = batch.at_us - batch.at_us % HOUR_US
        statement = upsert(connection, losses).values(host=batch.host, hour_us=hour, lost=batch.lost)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["host", "hour_us"],
                set_={"lost": least(losses.c.lost + statement.excluded.lost, LARGEST_COUNT)},
            )
        )
    return stored


def _merge(connection: Connection, told: Sequence[DenialRecord], next_id: int) -> tuple[DenialRecord, ...]:
    """All of them in one statement, in their order."""
    statement = upsert(connection, denials)
    new = statement.excluded
    merged = statement.on_conflict_do_update(
        index_elements=["host", "key"],
        set_={
            "id": new.id,
            "count": least(denials.c.count + new.count, LARGEST_COUNT),
            "first_us": least(denials.c.first_us, new.first_us),
            "last_us": greatest(denials.c.last_us, new.last_us),
            "body": new.body,
        },
    ).returning(*denials.c)
    values = [rows.denial_values(denial, number) for number, denial in enumerate(told, next_id)]
    found = connection.execute(merged, values).mappings()
    return tuple(sorted((rows.denial_of(dict(row)) for row in found), key=lambda row: row.id))


def _prune(connection: Connection, table: Table, keep: int, before: int, newest: int) -> None:
    """The oldest rows of the hosts that have most of them go, row by row: who floods pushes out its own. To count costs
    as much as there are, so it is done once in a hundredth of `keep`, by the ids of the rows: `newest` is the highest,
    and was `before`. Until then there are as many too many, at most."""
    every = max(1, keep // 100)
    if before // every == newest // every:
        return
    excess = (connection.scalar(select(func.count()).select_from(table)) or 0) - keep
    if excess <= 0:
        return
    depth = func.row_number().over(partition_by=table.c.host, order_by=table.c.id.desc()).label("depth")
    ranked = select(table.c.id, depth).subquery()
    oldest = select(ranked.c.id).order_by(ranked.c.depth.desc(), ranked.c.id).limit(excess)
    connection.execute(delete(table).where(table.c.id.in_(oldest)))


def newest_denials(connection: Connection, wanted: DenialFilter) -> tuple[DenialRecord, ...]:
    query = select(denials).where(denials.c.last_us >= wanted.since_us, denials.c.id > wanted.after)
    if wanted.host:
        query = query.where(denials.c.host == wanted.host)
    if wanted.workload:
        query = query.where(denials.c.workload == wanted.workload)
    found = connection.execute(query.order_by(denials.c.id.desc()).limit(wanted.limit)).mappings().all()
    return tuple(rows.denial_of(dict(row)) for row in reversed(found))


def lost(connection: Connection, host: str, since_us: int) -> int:
    query = select(sum_of(losses.c.lost)).where(losses.c.hour_us > since_us - HOUR_US)
    if host:
        query = query.where(losses.c.host == host)
    return min(int(connection.scalar(query) or 0), LARGEST_COUNT)


def add_event(connection: Connection, event: EventRecord, limits: Limits) -> None:
    values = {
        "host": event.host,
        "kind": event.kind,
        "message": event.message,
        "at_us": event.at_us,
        "culprit_pid": event.culprit_pid,
        "culprit_name": event.culprit_name,
    }
    newest: int = connection.execute(insert(events).values(values).returning(events.c.id)).scalar_one()
    _prune(connection, events, limits.events, newest - 1, newest)


def newest_events(connection: Connection, limit: int) -> tuple[EventRecord, ...]:
    found = connection.execute(select(events).order_by(events.c.id.desc()).limit(limit)).mappings()
    return tuple(
        EventRecord(row["host"], row["kind"], row["message"], row["at_us"], row["culprit_pid"], row["culprit_name"])
        for row in found
    )
