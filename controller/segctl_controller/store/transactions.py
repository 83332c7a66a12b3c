"""One transaction a call; or many calls in one, each a savepoint of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection, Engine


class Transactions:
    """Of the one thread that writes. `translated` turns the driver's errors into ours; `open_in` tells whether a
    transaction is still open in a connection: a full disk or a lost connection ends it under the code that runs in
    it, and a savepoint after that would be a transaction of its own."""

    def __init__(
        self,
        engine: Engine,
        translated: Callable[[], AbstractContextManager[None]],
        open_in: Callable[[Connection], bool],
    ) -> None:
        self._engine = engine
        self._translated = translated
        self._open_in = open_in
        self._batch: Connection | None = None
        self._ended: BaseException | None = None

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        with self._translated():
            if self._batch is not None:
                with self._savepoint(self._batch):
                    yield self._batch
            else:
                with self._engine.begin() as connection:
                    yield connection

    @contextmanager
    def batch(self) -> Iterator[None]:
        """See Store.batch. When a call ends the transaction of all, those after it and the batch raise what it did."""
        with self._translated(), self._engine.begin() as connection:
            self._batch, self._ended = connection, None
            try:
                yield
                self._check()
            finally:
                self._batch = None

    @contextmanager
    def _savepoint(self, connection: Connection) -> Iterator[None]:
        self._check()
        savepoint = connection.begin_nested()
        try:
            yield
            savepoint.commit()
        except BaseException as error:
            if self._open_in(connection):
                savepoint.rollback()
            else:
                self._ended = error
            raise

    def _check(self) -> None:
        if self._ended is not None:
            raise self._ended
