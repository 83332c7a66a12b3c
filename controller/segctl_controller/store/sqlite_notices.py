"""Notices on SQLite: another process of this machine, such as `segctl-controller admin`, is noticed by a poll."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path

from segctl_controller.store.notices import EVERYTHING, READ, Notice, Row, news

POLL_SECONDS = 0.05


class SqliteNotices:
    """Implements segctl_controller.store.notices.Notices."""

    def __init__(self, path: Path, origin: str) -> None:
        self._path = path
        self._origin = origin

    async def listen(self) -> AsyncGenerator[Notice, None]:
        with closing(_Poll(self._path, self._origin)) as poll:
            await asyncio.to_thread(poll.start)
            yield EVERYTHING
            while True:
                await asyncio.sleep(POLL_SECONDS)
                notice = await asyncio.to_thread(poll.look)
                if notice is not None:
                    yield notice


class _Poll:
    """A connection that is used by one thread at a time. `data_version` is read from shared memory; it differs when
    another connection has committed something (https://sqlite.org/pragma.html#pragma_data_version)."""

    def __init__(self, path: Path, origin: str) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5.0)
        self._lock = threading.Lock()
        self._closed = False
        self._origin = origin
        self._version = self._seen = 0

    def close(self) -> None:
        """Whoever listened may have been cancelled while a thread looks, and sqlite3 does not survive that."""
        with self._lock:
            self._closed = True
            self._connection.close()

    def start(self) -> None:
        with self._lock:
            if not self._closed:
                self._start()

    def _start(self) -> None:
        self._connection.execute("PRAGMA query_only=ON")
        self._version = self._read_version()
        (self._seen,) = self._connection.execute("SELECT coalesce(max(id), 0) FROM notices").fetchone()

    def look(self) -> Notice | None:
        with self._lock:
            return None if self._closed else self._look()

    def _look(self) -> Notice | None:
        version = self._read_version()
        if version == self._version:
            return None
        self._version = version
        found = [Row(*row) for row in self._connection.execute(READ.format("?"), (self._seen,))]
        self._seen, notice = news(found, self._seen, self._origin)
        return notice

    def _read_version(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
