"""When this host's certificate is renewed, and that the agent then uses the new one.

It is done by a short-lived process (`segctl-agent renew`): the certificate library would cost the agent 10 MB for good.
"""

from __future__ import annotations

import asyncio
import logging
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from segctl.errors import StateError

from segctl_agent.credentials import Identity, identity_version, load_identity

SHARE, SPREAD = 0.5, 0.1
"""Of its life a certificate is renewed at the half, and up to a tenth later: hosts that were enrolled at once must not
come at once."""
FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)
ENDED_PAUSE = timedelta(minutes=5)
"""The longest one for a host whose certificate has ended: it has no session until it gets another."""
PATIENCE_SECONDS = 90.0
MOST_SPREAD_SECONDS = 3600
log = logging.getLogger(__name__)


def run_command(state: Path) -> str:
    """Why the renewal failed; empty when it did not. Blocks: call it in a thread."""
    command = (sys.executable, "-P", "-m", "segctl_agent.main", "renew", "--state", str(state))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot run `segctl-agent renew`: {error}"
    words = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else (words[-1] if words else f"it ended with {done.returncode}")


class Renewal:
    """`look` is to be called every some seconds. `use` is given each new identity, `tell` what people must know."""

    def __init__(
        self,
        state: Path,
        identity: Identity,
        use: Callable[[Identity], object],
        tell: Callable[[str], object],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        run: Callable[[Path], str] = run_command,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._state, self._use, self._tell, self._now, self._run = state, use, tell, now, run
        self._chance = chance
        self._spread = chance() * SPREAD
        self._version = identity_version(state)
        self._pause = FIRST_PAUSE
        self._wanted: datetime | None = None
        self._tried = datetime.min.replace(tzinfo=UTC)
        self._wait = timedelta()
        self._told = False
        self.identity = identity

    @property
    def due(self) -> datetime:
        life = self.identity.valid_until - self.identity.valid_from
        usual = self.identity.valid_from + life * (SHARE + self._spread)
        return usual if self._wanted is None else min(usual, self._wanted)

    def hasten(self, within_seconds: int) -> None:
        """The controller wants it renewed soon: at a moment within these seconds, so that not all come at once."""
        self._wanted = self._now() + timedelta(seconds=min(within_seconds, MOST_SPREAD_SECONDS) * self._chance())

    @property
    def late(self) -> bool:
        """It cannot wait any more for the end of a trial, which may have pauses of days."""
        return self.identity.late(self._now())

    async def look(self) -> None:
        """Takes over an identity that was stored, by whomever; renews the one in use when it is time."""
        self._take_over()
        now = self._now()
        # A clock that was set back by more than the pause does not make it wait for that longer.
        if now < self.due or timedelta() <= now - self._tried < self._wait:
            return
        ended = now >= self.identity.valid_until
        self._tried, self._wait = now, min(self._pause, ENDED_PAUSE) if ended else self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        problem = await asyncio.to_thread(self._run, self._state)
        if not problem:
            self._take_over()
            return
        log.warning("the certificate was not renewed, it is tried again: %s", problem)
        if not self._told and self.late:
            self._told = True
            end = f"{self.identity.valid_until:%Y-%m-%d %H:%M} UTC"
            self._tell(f"this host's certificate, which ends {end}, cannot be renewed: {problem}")

    def _take_over(self) -> None:
        version = identity_version(self._state)
        if version == self._version:
            return
        try:
            found = load_identity(self._state)
        except StateError as error:
            log.error("the identity on disk changed and cannot be used, the one before is: %s", error)
            self._version = version
            return
        self._version = version
        if found is None or found == self.identity:
            return
        if found.enrolment_id != self.identity.enrolment_id:
            self._tell("this host was enrolled anew: `systemctl restart segctl-agent` makes its agent use that")
            return
        self.identity, self._pause, self._told, self._wanted = found, FIRST_PAUSE, False, None
        self._use(found)
        log.info("a new certificate is in use, until %s", found.valid_until)
