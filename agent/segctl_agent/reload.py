"""SIGHUP, which `systemctl reload` sends: read again what can be, and say what came of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from segctl.errors import SegctlError
from segctl.systemd import Notifier

log = logging.getLogger(__name__)

Step = Callable[[], Awaitable[str]]


class Reload:
    """`run` as a task; `request` may be called at any time. Requests during a reload are one more. Each step says
    in a few words what it found; one that fails is told, and the others are done all the same."""

    def __init__(self, notifier: Notifier, status: Callable[[], str], steps: Sequence[Step]) -> None:
        self._notifier, self._status, self._steps = notifier, status, steps
        self._asked = asyncio.Event()

    def request(self) -> None:
        self._asked.set()

    async def run(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            self._notifier.reloading("reloading")
            told = [await self._done(step) for step in self._steps]
            log.info("reloaded: %s", "; ".join(told))
            self._notifier.ready(self._status())

    async def _done(self, step: Step) -> str:
        try:
            return await step()
        except SegctlError as error:
            log.error("reload: %s", error)
            return f"FAILED: {error}"
