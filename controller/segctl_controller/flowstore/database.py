"""What the flow store asks of an engine: transactions, statements of SQLAlchemy, and columns in bulk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from numpy.typing import NDArray
from sqlalchemy import Executable, Select, Table
from sqlalchemy.schema import ExecutableDDLElement

Columns = Mapping[str, NDArray[Any]]


class Work(Protocol):
    """One transaction."""

    def rows(self, statement: Executable) -> list[tuple[Any, ...]]: ...

    def columns(self, statement: Select[Any]) -> list[list[int]]:
        """Of rows of integers, none of them NULL, under names that differ; where a row is an object too much."""

    def run(self, statement: Executable) -> int:
        """How many rows it changed."""

    def append(self, table: Table, columns: Columns) -> None:
        """Rows whose columns are arrays of one length, in the order of the table."""

    def merge(self, table: Table, columns: Columns, key: str, change: str) -> None:
        """Like `append`, of any columns; `change` is what ON CONFLICT of the columns `key` does, in SQL. No key may
        occur twice."""


class Database(Protocol):
    """Raises StoreFullError when the disk is full (nothing of the transaction is stored), and StateError when the
    database cannot be used. Transactions belong to one thread, readings to any."""

    shared: bool
    """Whether other processes write too."""

    def prepare(self, schema: Sequence[ExecutableDDLElement]) -> None:
        """Make what is not there yet."""

    def transaction(self) -> AbstractContextManager[Work]:
        """Durable when it is left; rolled back when it raises."""

    def reading(self) -> AbstractContextManager[Work]:
        """One snapshot."""

    def alone(self, work: Work) -> bool:
        """Whether this transaction may do what only one replica does at a time."""

    def bytes(self, work: Work) -> int:
        """What the rows take of the disk, without what is free for further ones."""

    def close(self) -> None: ...
