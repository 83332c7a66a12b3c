"""One transaction a call; or many calls in one, each a savepoint of it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from segctl_controller.store.database import Database
from segctl_controller.store.notices import Notice, Topic, publish


class Transactions:
    """Of the one thread that writes. A full disk or a lost connection ends a transaction under the code that runs in
    it; a savepoint after that would be a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.origin = secrets.token_hex(8)
        self._noted: Notice | None = None
        self._batch: Connection | None = None
        self._ended: BaseException | None = None

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        with self._database.translated():
            if self._batch is not None:
                with self._savepoint(self._batch):
                    yield self._batch
            else:
                with self._outermost() as connection:
                    yield connection

    def note(self, topics: Topic, *hosts: str, every: bool = False) -> None:
        """What the transaction under way changes: others are told when it is committed. Too much may be noted."""
        notice = Notice(topics, None if every else frozenset(hosts))
        self._noted = notice if self._noted is None else self._noted | notice

    @contextmanager
    def _outermost(self) -> Iterator[Connection]:
        self._noted = None
        with self._database.writer.begin() as connection:
            yield connection
            if self._noted is not None:
                publish(connection, self.origin, self._noted)
                self._database.wake(connection, self.origin)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """See Store.batch. When a call ends the transaction of all, those after it and the batch raise what it did."""
        with self._database.translated(), self._outermost() as connection:
            self._batch, self._ended = connection, None
            try:
                yield
                self._check()
            finally:
                self._batch = None

    @contextmanager
    def _savepoint(self, connection: Connection) -> Iterator[None]:
        self._check()
        savepoint = None
        try:
            savepoint = connection.begin_nested()
            yield
            savepoint.commit()
        except BaseException as error:
            if not self._database.is_open(connection):
                self._ended = error
            elif savepoint is not None:
                savepoint.rollback()
            raise

    def _check(self) -> None:
        if self._ended is not None:
            raise self._ended
