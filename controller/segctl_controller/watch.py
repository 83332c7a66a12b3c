"""One look at all sessions now and then, instead of a timer for each: who is silent, and who is owed a heartbeat."""

from __future__ import annotations

import asyncio

from segctl_controller.session import Session

LOOKS = 8
"""In the time of a heartbeat."""
TURN = 256
"""Sessions that are looked at between two turns of the event loop."""
BEATS = 16
"""Heartbeats that are due between two turns: what they wake is much more than a look."""


class Watch:
    """Looks as long as there are sessions. `heartbeat` is in seconds."""

    def __init__(self, heartbeat: float) -> None:
        self._every = heartbeat / LOOKS
        self._sessions: set[Session] = set()
        self._task: asyncio.Task[None] | None = None

    def add(self, session: Session) -> None:
        self._sessions.add(session)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="watch")

    def remove(self, session: Session) -> None:
        self._sessions.discard(session)

    async def _run(self) -> None:
        try:
            while self._sessions:
                await asyncio.sleep(self._every)
                await self._look()
        finally:
            self._task = None

    async def _look(self) -> None:
        loop, beats = asyncio.get_running_loop(), 0
        for number, session in enumerate(tuple(self._sessions), 1):
            if session.look(loop.time()):
                session.beat()
                beats += 1
            if number % TURN == 0 or beats == BEATS:
                beats = 0
                await asyncio.sleep(0)
