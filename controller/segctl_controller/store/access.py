"""Who may do what beside operators with certificates, in SQL: API tokens, and groups of the OpenID provider."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, insert, select, update

from segctl_controller.errors import AlreadyExistsError, NotFoundError
from segctl_controller.store import audit, rows
from segctl_controller.store.records import ApiTokenRecord, Entry, GroupRecord
from segctl_controller.store.refusals import api_token_taken, group_taken, no_api_token, no_group
from segctl_controller.store.tables import api_tokens, group_roles, web_sessions


def add_api_token(connection: Connection, token: ApiTokenRecord, entry: Entry) -> None:
    if connection.scalar(select(func.count()).where(api_tokens.c.name == token.name)):
        raise AlreadyExistsError(api_token_taken(token.name))
    connection.execute(insert(api_tokens).values(rows.api_token_values(token)))
    audit.append(connection, entry)


def every_api_token(connection: Connection) -> tuple[ApiTokenRecord, ...]:
    wanted = select(api_tokens).order_by(api_tokens.c.name)
    return tuple(rows.api_token_of(dict(row)) for row in connection.execute(wanted).mappings())


def api_token(connection: Connection, sha256: bytes) -> ApiTokenRecord | None:
    row = connection.execute(select(api_tokens).where(api_tokens.c.sha256 == sha256)).mappings().first()
    return rows.api_token_of(dict(row)) if row else None


def use_api_token(connection: Connection, token_id: str, at_us: int) -> None:
    connection.execute(update(api_tokens).where(api_tokens.c.id == token_id).values(last_used_us=at_us))


def remove_api_token(connection: Connection, token_id: str, entry: Entry) -> None:
    if not connection.execute(delete(api_tokens).where(api_tokens.c.id == token_id)).rowcount:
        raise NotFoundError(no_api_token(token_id))
    connection.execute(delete(web_sessions).where(web_sessions.c.identity == f"api-token {token_id}"))
    audit.append(connection, entry)


def groups(connection: Connection) -> tuple[GroupRecord, ...]:
    columns = group_roles.c
    wanted = select(group_roles).order_by(columns.name, columns.role, columns.scope)
    return tuple(rows.group_of(dict(row)) for row in connection.execute(wanted).mappings())


def map_group(connection: Connection, group: GroupRecord, entry: Entry) -> None:
    columns, values = group_roles.c, rows.group_values(group)
    same = (columns.name == group.name) & (columns.role == values["role"]) & (columns.scope == values["scope"])
    if connection.scalar(select(func.count()).where(same)):
        raise AlreadyExistsError(group_taken(group))
    connection.execute(insert(group_roles).values(values))
    audit.append(connection, entry)


def unmap_group(connection: Connection, name: str, entry: Entry) -> None:
    if not connection.execute(delete(group_roles).where(group_roles.c.name == name)).rowcount:
        raise NotFoundError(no_group(name))
    audit.append(connection, entry)
