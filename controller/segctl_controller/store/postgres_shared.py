"""SharedStore on PostgreSQL. Who serves is counted over a session of its own: it waits neither for the lock of the one
writer nor for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager
from typing import Any

import psycopg
from sqlalchemy import Connection

from segctl_controller.store.conninfo import Conninfo
from segctl_controller.store.postgres_sessions import AGAIN_SECONDS, LEASE_SECONDS, connect, tell
from segctl_controller.store.shared import Beat, SqlShared
from segctl_controller.store.transactions import Transactions

BEAT_SECONDS = 1.0
COUNT = """
INSERT INTO replicas (id, endpoint, beats) VALUES (%s, %s, 1)
ON CONFLICT (id) DO UPDATE SET beats = replicas.beats + 1 RETURNING beats
"""
LOOK = "SELECT id, endpoint, beats FROM replicas"
PRESENCE = "SELECT coalesce(max(presence), 0) FROM fleet"


class PostgresShared(SqlShared):
    """Implements segctl_controller.store.shared.SharedStore."""

    def __init__(
        self, transactions: Transactions, reading: Callable[[], AbstractContextManager[Connection]], where: Conninfo
    ) -> None:
        super().__init__(transactions, reading)
        self._where = where

    async def beats(self, replica: str, endpoint: str) -> AsyncGenerator[Beat | None, None]:
        lost = False
        while True:
            try:
                async with await connect(self._where) as connection:
                    await connection.execute("SET synchronous_commit = off")  # a count that is lost is made again
                    while True:
                        async with asyncio.timeout(LEASE_SECONDS):
                            beat = await _beat(connection, replica, endpoint)
                        lost = False
                        yield beat
                        await asyncio.sleep(BEAT_SECONDS)
            except (psycopg.Error, OSError) as error:  # TimeoutError is an OSError
                if not lost:
                    tell(self._where, "it cannot be asked who serves", error)
                lost = True
            yield None
            await asyncio.sleep(AGAIN_SECONDS)


async def _beat(connection: psycopg.AsyncConnection[Any], replica: str, endpoint: str) -> Beat:
    (count,) = await (await connection.execute(COUNT.encode(), (replica, endpoint))).fetchone() or (1,)
    found = await (await connection.execute(LOOK.encode())).fetchall()
    (presence,) = await (await connection.execute(PRESENCE.encode())).fetchone() or (0,)
    return Beat({row[0]: (row[1], row[2]) for row in found}, count == 1, presence)
