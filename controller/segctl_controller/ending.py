"""How the one task that serves a stream hears that it must end. A future and a task beside it, for each of ten thousand
streams, would be a tenth of what a stream takes."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any


class Ending:
    """`with ending:` runs until its own end, or until `end(reason)` cancels it, and then raises the reason."""

    __slots__ = ("_cancelled", "_cancelling", "_over", "_reason", "_task")

    def __init__(self) -> None:
        self._over = self._cancelled = False
        self._reason: BaseException | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0

    def done(self) -> bool:
        return self._over

    def exception(self) -> BaseException | None:
        return self._reason

    def end(self, reason: BaseException | None) -> None:
        """The first reason counts. None: it ends, and nothing is raised."""
        if not self._over:
            self._over, self._reason = True, reason
            self._interrupt()

    def ends_with(self, part: asyncio.Task[None]) -> None:
        """For `part.add_done_callback`: it ends when a part does, and raises what that raised."""
        if not part.cancelled():
            self.end(part.exception())

    def fails_with(self, part: asyncio.Task[None]) -> None:
        """For `part.add_done_callback`: it ends only when a part fails."""
        if not part.cancelled() and (error := part.exception()) is not None:
            self.end(error)

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        if self._over:
            self._interrupt()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> bool:
        task, self._task = self._task, None
        # As asyncio.timeout: who else cancelled the task has it cancelled.
        ours = self._cancelled and task is not None and task.uncancel() <= self._cancelling
        if not self._over or not (kind is None or (ours and issubclass(kind, asyncio.CancelledError))):
            return False
        if self._reason is not None:
            raise self._reason
        return True

    def _interrupt(self) -> None:
        """In the next turn of the loop: the task may be the one that runs now, and has to be inside when it hears."""
        if self._task is not None:
            asyncio.get_running_loop().call_soon(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None and not self._cancelled:
            self._cancelled = True
            self._task.cancel()
