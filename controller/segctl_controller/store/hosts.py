"""Hosts in SQL, and what they told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from segctl.errors import EnrolmentError
from segctl.model.policy import Tags
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from segctl_controller.errors import ConflictError, NotFoundError
from segctl_controller.store import audit, hits, rows, tokens
from segctl_controller.store.protocol import Admit
from segctl_controller.store.records import Entry, FactsRecord, HostRecord
from segctl_controller.store.refusals import NO_TOKEN, no_host, tags_moved
from segctl_controller.store.tables import hosts, presence, told, web_sessions
from segctl_controller.store.tables import tokens as token_table


def every(connection: Connection) -> tuple[HostRecord, ...]:
    found = connection.execute(select(hosts).order_by(hosts.c.name)).mappings()
    return tuple(rows.host_of(dict(row)) for row in found)


def named(connection: Connection, names: Collection[str]) -> tuple[HostRecord, ...]:
    wanted = select(hosts).where(hosts.c.name.in_(names)).order_by(hosts.c.name)
    return tuple(rows.host_of(dict(row)) for row in connection.execute(wanted).mappings())


def enrol(
    connection: Connection, sha256: bytes, now_us: int, admit: Admit, entry: Callable[[HostRecord], Entry]
) -> HostRecord:
    def find(name: str) -> HostRecord | None:
        row = connection.execute(select(hosts).where(hosts.c.name == name)).mappings().first()
        return rows.host_of(dict(row)) if row else None

    redeemed = tokens.redeem(connection, sha256, now_us)
    if redeemed is None:
        raise EnrolmentError(NO_TOKEN)
    host = admit(redeemed, find)
    # The old host goes with everything that hangs on it: a reinstalled server is another server.
    connection.execute(delete(hosts).where(hosts.c.name == host.name))
    hits.begin_anew(connection, host.name)
    connection.execute(insert(hosts).values(rows.host_values(host)))
    audit.append(connection, entry(host))
    return host


def set_tags(connection: Connection, name: str, was: Tags, tags: Tags) -> None:
    found = connection.scalar(select(hosts.c.tags).where(hosts.c.name == name))
    if found is None:
        raise NotFoundError(no_host(name))
    if rows.tags_of(found) != was:
        raise ConflictError(tags_moved(name))
    connection.execute(update(hosts).where(hosts.c.name == name).values(tags=rows.tags_text(tags)))


def set_certificate(connection: Connection, name: str, was: str, serial: str, renewal: bytes) -> bool:
    which = update(hosts).where(hosts.c.name == name, hosts.c.serial == was)
    return bool(connection.execute(which.values(serial=serial, renewal=renewal, restored_us=0)).rowcount)


def add_told(connection: Connection, host: str, identifier: str, entry: Entry) -> bool:
    enrolled = connection.scalar(select(func.count()).where(hosts.c.name == host))
    before = select(func.count()).where(told.c.host == host, told.c.entry == identifier)
    if not enrolled or connection.scalar(before):
        return False
    connection.execute(insert(told).values(host=host, entry=identifier))
    audit.append(connection, entry)
    return True


def mark_restored(connection: Connection, taken_us: int, entry: Entry) -> None:
    connection.execute(update(hosts).values(restored_us=taken_us))
    connection.execute(delete(token_table))
    connection.execute(delete(web_sessions))
    audit.append(connection, entry)


def remove(connection: Connection, name: str, entry: Entry) -> None:
    if not connection.execute(delete(hosts).where(hosts.c.name == name)).rowcount:
        raise NotFoundError(no_host(name))
    hits.forget(connection, name)
    connection.execute(delete(presence).where(presence.c.host == name))
    audit.append(connection, entry)


def set_facts(connection: Connection, facts: Sequence[FactsRecord]) -> None:
    values = [
        {
            "of": one.host,
            "addresses": rows.texts(one.addresses),
            "agent_version": one.agent_version,
            "facts": one.facts,
            "last_seen_us": one.at_us,
        }
        for one in facts
    ]
    _of_many(connection, values)


def seen(connection: Connection, at_us: Mapping[str, int]) -> None:
    _of_many(connection, [{"of": name, "last_seen_us": at} for name, at in at_us.items()])


def _of_many(connection: Connection, values: Sequence[Mapping[str, Any]]) -> None:
    """Each is the name of a host as `of`, and columns of it."""
    if values:
        columns: dict[str, Any] = {name: bindparam(name) for name in values[0] if name != "of"}
        connection.execute(update(hosts).where(hosts.c.name == bindparam("of")).values(columns), values)
