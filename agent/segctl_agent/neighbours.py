"""Tells what the tables of others do to this host's policy: once for each thing, with who made it so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from segctl.errors import KernelError

from segctl_agent.nft.foreign import Finding, Snapshot, Weight, analyse
from segctl_agent.nft.watch import TamperNotice

log = logging.getLogger(__name__)

SETTLE_SECONDS = 0.5
"""Programs write their rules in several transactions: what they mean is looked at when they are done."""
PAUSE_SECONDS = 10.0
_MOST_TOLD = 20
Tell = Callable[[str, str, TamperNotice | None], object]


class Neighbours:
    """`read` may take seconds and is called in a thread. `tell` gets (kind of event, message, culprit)."""

    def __init__(
        self,
        read: Callable[[], Snapshot],
        tell: Tell,
        mask: int,
        settle: float = SETTLE_SECONDS,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        self._read, self._tell, self._mask = read, tell, mask
        self._settle, self._pause = settle, pause
        self._due = asyncio.Event()
        self._due.set()
        self._culprits: dict[str, TamperNotice] = {}  # table -> the last who wrote it
        self.findings: tuple[Finding, ...] = ()

    def changed_by(self, notice: TamperNotice) -> None:
        """Someone changed tables of this network namespace; which, may be unknown."""
        for table in notice.tables or ("",):
            self._culprits[table] = notice
        self._due.set()

    async def run(self) -> None:
        """Looks at the start and after changes, never more often than every `pause` seconds."""
        while True:
            await self._due.wait()
            await asyncio.sleep(self._settle)
            self._due.clear()
            try:
                snapshot = await asyncio.to_thread(self._read)
            except KernelError as error:
                log.warning("%s", error)
            else:
                self._compare(analyse(snapshot, self._mask))
            await asyncio.sleep(self._pause)

    def _compare(self, found: tuple[Finding, ...]) -> None:
        known, self.findings = set(self.findings), found
        new = [f for f in found if f not in known]
        serious = [f for f in new if f.weight is Weight.INTERFERES]
        for finding in serious[:_MOST_TOLD]:
            culprit = self._culprits.get(finding.where.table) or self._culprits.get("")
            who = f"{culprit.process} (pid {culprit.pid}) " if culprit is not None and culprit.pid else ""
            self._tell("kernel", f"{who}{'made this: ' if who else ''}{finding}", culprit)
        if len(serious) > _MOST_TOLD:
            more = len(serious) - _MOST_TOLD
            self._tell("kernel", f"{more} more rules of others interfere: see `segctl-agent status` on that host", None)
        for finding in new:
            if finding.weight is Weight.INFORMS:
                log.info("%s", finding)
        for gone in known.difference(found):
            log.info("no longer so: %s", gone)
        self._culprits.clear()
