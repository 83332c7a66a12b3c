"""Join tokens in SQL."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from segctl_controller.errors import NotFoundError
from segctl_controller.store import audit, rows
from segctl_controller.store.records import Entry, TokenRecord
from segctl_controller.store.refusals import no_token
from segctl_controller.store.tables import tokens


def add(connection: Connection, token: TokenRecord, entry: Entry) -> None:
    connection.execute(insert(tokens).values(rows.token_values(token)))
    audit.append(connection, entry)


def usable(connection: Connection, now_us: int) -> tuple[TokenRecord, ...]:
    wanted = select(tokens).where(tokens.c.uses > 0, tokens.c.expires_us > now_us).order_by(tokens.c.expires_us)
    return tuple(rows.token_of(dict(row)) for row in connection.execute(wanted).mappings())


def redeem(connection: Connection, sha256: bytes, now_us: int) -> TokenRecord | None:
    """Takes one use of it; None: there is no such token that can be used."""
    change = (
        update(tokens)
        .where(tokens.c.sha256 == sha256, tokens.c.uses > 0, tokens.c.expires_us > now_us)
        .values(uses=tokens.c.uses - 1)
        .returning(*tokens.c)
    )
    row = connection.execute(change).mappings().first()
    return rows.token_of(dict(row)) if row else None


def remove(connection: Connection, token_id: str, entry: Entry) -> None:
    if not connection.execute(delete(tokens).where(tokens.c.id == token_id)).rowcount:
        raise NotFoundError(no_token(token_id))
    audit.append(connection, entry)
