"""Sessions of browsers, in SQL."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import ColumnElement, Connection, delete, func, insert, or_, select, update

from segctl_controller.store.records import Limits, WebSessionRecord
from segctl_controller.store.tables import web_sessions


def add(connection: Connection, new: WebSessionRecord, used_us: int, began_us: int, limits: Limits) -> None:
    columns = web_sessions.c
    connection.execute(delete(web_sessions).where(or_(columns.used_us < used_us, columns.began_us < began_us)))
    _make_room(connection, columns.identity == new.identity, limits.web_sessions_of_one)
    _make_room(connection, columns.identity.is_not(None), limits.web_sessions)
    connection.execute(insert(web_sessions).values(asdict(new)))


def _make_room(connection: Connection, among: ColumnElement[bool], most: int) -> None:
    """For one more."""
    columns = web_sessions.c
    found = connection.scalar(select(func.count()).select_from(web_sessions).where(among)) or 0
    if found >= most:
        oldest = select(columns.id).where(among).order_by(columns.used_us, columns.id).limit(found - most + 1)
        connection.execute(delete(web_sessions).where(columns.id.in_(oldest)))


def one(connection: Connection, identifier: bytes) -> WebSessionRecord | None:
    row = connection.execute(select(web_sessions).where(web_sessions.c.id == identifier)).mappings().first()
    return WebSessionRecord(**row) if row is not None else None


def use(connection: Connection, identifier: bytes, at_us: int) -> None:
    columns = web_sessions.c
    later = (columns.id == identifier) & (columns.used_us < at_us)
    connection.execute(update(web_sessions).where(later).values(used_us=at_us))


def lease(connection: Connection, identifier: bytes, version: int, now_us: int, until_us: int) -> bool:
    columns = web_sessions.c
    free = (columns.id == identifier) & (columns.version == version) & (columns.leased_us <= now_us)
    return bool(connection.execute(update(web_sessions).where(free).values(leased_us=until_us)).rowcount)


def keep(connection: Connection, identifier: bytes, version: int, sealed: bytes) -> bool:
    columns = web_sessions.c
    same = (columns.id == identifier) & (columns.version == version)
    values = {"sealed": sealed, "version": version + 1, "leased_us": 0}
    return bool(connection.execute(update(web_sessions).where(same).values(values)).rowcount)


def end(connection: Connection, identifier: bytes) -> WebSessionRecord | None:
    found = one(connection, identifier)
    if found is not None:
        connection.execute(delete(web_sessions).where(web_sessions.c.id == identifier))
    return found
