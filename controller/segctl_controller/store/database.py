"""The database of a store as the store sees it, whichever it is."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import Connection, Engine

from segctl_controller.store.leadership import Leadership
from segctl_controller.store.notices import Notices

if TYPE_CHECKING:
    from segctl_controller.store.shared import SharedStore
    from segctl_controller.store.transactions import Transactions


class Database(Protocol):
    """Open, checked, and of this code's schema. `writer` gives transactions of which there is one at a time, in all
    processes that use the database; `reader` such that only read and hold up nobody. One thread uses each."""

    @property
    def writer(self) -> Engine: ...

    @property
    def reader(self) -> Engine: ...

    def translated(self) -> AbstractContextManager[None]:
        """Turns the driver's errors into StoreFullError and StateError, which name the database and the mend. What
        breaks a constraint is left as it is."""

    def is_open(self, connection: Connection) -> bool:
        """Whether the transaction of the connection is."""

    def write(self, connection: Connection) -> None:
        """Something that changes nothing."""

    def wake(self, connection: Connection, origin: str) -> None:
        """Lets others know of a new row of notices when the transaction is committed."""

    def notices(self, origin: str) -> Notices:
        """What all others but `origin` change."""

    def leadership(self) -> Leadership: ...

    def shared(self, transactions: Transactions) -> SharedStore | None:
        """None: one controller at a time has it."""

    def close(self) -> None: ...
