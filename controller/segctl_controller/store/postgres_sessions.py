"""Notices and leadership on PostgreSQL: each has a session of its own, on the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import psycopg
from segctl.logs import Event, about

from segctl_controller.store.conninfo import Conninfo
from segctl_controller.store.notices import EVERYTHING, READ, Notice, Row, news
from segctl_controller.store.postgres import CHANNEL, LEADER, LOCKS

AGAIN_SECONDS = 0.5
"""Between attempts to connect."""
IDLE_SECONDS = 5.0
"""Without a word for so long, the listener asks; a server that does not answer for as long again is left."""
BEAT_SECONDS, LEASE_SECONDS, SERVER_SECONDS = 1.0, 4.0, 6.0
"""The leader asks the server so often; leads for so long after it asked; and the server ends a session that has not
asked for so long, and with it the lock. So a frozen leader has lost its lease before another can have the lock, and
only lengths of time are compared, never clocks."""
SESSION = """
SET client_connection_check_interval = '2s';
SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; SET tcp_user_timeout = 10000
"""
"""The server notices too when this machine is gone."""
log = logging.getLogger(__name__)


async def connect(where: Conninfo) -> psycopg.AsyncConnection[Any]:
    """A session on the event loop, each statement a transaction."""
    connection = await psycopg.AsyncConnection.connect(**where.parameters, autocommit=True)  # type: ignore[arg-type]
    try:
        await connection.execute(SESSION)
    except BaseException:
        await connection.close()
        raise
    return connection


def tell(where: Conninfo, what: str, error: Exception) -> None:
    said = " ".join(str(error).split()) or "no answer"
    log.warning("%s: %s (%s)", where.name, what, said, extra=about(Event.STORE))


class PostgresNotices:
    """Implements segctl_controller.store.notices.Notices."""

    def __init__(self, where: Conninfo, origin: str) -> None:
        self._where = where
        self._origin = origin
        self._seen: int | None = None

    async def listen(self) -> AsyncGenerator[Notice, None]:
        while True:
            try:
                async with await connect(self._where) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}".encode())
                    while True:
                        async with asyncio.timeout(IDLE_SECONDS):
                            notice = await self._read(connection)
                        if notice is not None:
                            yield notice
                        await self._wait(connection)
            except (psycopg.Error, OSError) as error:  # TimeoutError is an OSError
                tell(self._where, "changes of other controllers are not heard of until it is back", error)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _read(self, connection: psycopg.AsyncConnection[Any]) -> Notice | None:
        if self._seen is None:
            cursor = await connection.execute("SELECT coalesce(max(id), 0) FROM notices")
            (self._seen,) = await cursor.fetchone() or (0,)
            return EVERYTHING
        cursor = await connection.execute(READ.format("%s").encode(), (self._seen,))
        self._seen, notice = news([Row(*row) for row in await cursor.fetchall()], self._seen, self._origin)
        return notice

    async def _wait(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Until another process told something, or for a while. Own words come back too."""
        async for told in connection.notifies(timeout=IDLE_SECONDS):
            if told.payload != self._origin:
                return


class PostgresLeadership:
    """Implements segctl_controller.store.leadership.Leadership, by an advisory lock of a session."""

    def __init__(self, where: Conninfo) -> None:
        self._where = where
        self._until = 0.0

    @property
    def held(self) -> bool:
        return time.monotonic() < self._until

    async def campaign(self) -> AsyncIterator[bool]:
        led = False
        while True:
            try:
                async with await connect(self._where) as connection:
                    await connection.execute(f"SET idle_session_timeout = '{SERVER_SECONDS:g}s'".encode())
                    # Waits for as long as another has it, and then is the next at once.
                    await connection.execute("SELECT pg_advisory_lock(%s, %s)", (LOCKS, LEADER))
                    await self._renew(connection)
                    led = True
                    yield True
                    while True:
                        await asyncio.sleep(BEAT_SECONDS)
                        await self._renew(connection)
            except (psycopg.Error, OSError) as error:
                tell(self._where, "it leads no more" if led else "it cannot stand for leader", error)
            finally:
                self._until = 0.0
            if led:
                led = False
                yield False
            await asyncio.sleep(AGAIN_SECONDS)

    async def _renew(self, connection: psycopg.AsyncConnection[Any]) -> None:
        asked = time.monotonic()
        async with asyncio.timeout(LEASE_SECONDS):
            await connection.execute("SELECT 1")
        self._until = asked + LEASE_SECONDS
