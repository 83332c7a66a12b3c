"""Questions on a stream and their answers, matched by id."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from segctl_controller.errors import LimitError

Reply = TypeVar("Reply")


class Questions(Generic[Reply]):
    """At most `most` are open at a time. Whoever asks sets the timeout."""

    def __init__(self, host: str, most: int) -> None:
        self._host = host
        self._most = most
        self._last = 0
        self._open: dict[int, asyncio.Future[Reply]] = {}

    @contextmanager
    def ask(self) -> Iterator[tuple[int, asyncio.Future[Reply]]]:
        """The id to ask with, and the reply to wait for inside. Raises LimitError when too many are open."""
        if len(self._open) >= self._most:
            raise LimitError(f"host {self._host} has {self._most} open questions; try again in a moment")
        self._last = number = self._last + 1
        reply = self._open[number] = asyncio.get_running_loop().create_future()
        try:
            yield number, reply
        finally:
            del self._open[number]

    def answer(self, number: int, reply: Reply) -> None:
        """Ignored when nobody asked, or waits for it any more."""
        waiting = self._open.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)
