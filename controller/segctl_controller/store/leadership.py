"""Which of the processes that use a database does what only one may do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol


class Leadership(Protocol):
    @property
    def held(self) -> bool:
        """Now, by this process. Ask before each step: who was frozen has lost it without a word."""

    def campaign(self) -> AsyncIterator[bool]:
        """True when it is won, False when it is lost, by turns, until it is closed; then it is given up."""


class Alone:
    """Of a store that one process has: it always leads."""

    held = True

    async def campaign(self) -> AsyncIterator[bool]:
        yield True
        await asyncio.Event().wait()
