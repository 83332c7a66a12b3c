"""A stream of denials that survives a restart of the controller and the end of one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Protocol

from segctl.cli.exits import CliError, Exit
from segctl.cli.output import Line, line, warn
from segctl.cli.views import Denial, Lost

PATIENCE = 60.0
"""Seconds without a working stream after which following gives up."""
PAUSE = 1.0


class DenialSource(Protocol):
    def denied(
        self, follow: bool, limit: int, host: str, workload: str, since: datetime | None
    ) -> Iterator[Denial | Lost]: ...


def follow_denied(
    source: DenialSource,
    limit: int,
    host: str,
    workload: str,
    since: datetime | None,
    tell: Callable[[Sequence[Line]], None],
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[Denial | Lost]:
    """Denials as they come, for ever. A stream that ends is opened again from the last one seen; what both streams
    bring is shown once. Raises CliError when the first try fails, or when none works for PATIENCE seconds.
    """
    shown: set[tuple[int, datetime | None, int]] = set()
    latest = since
    working, failed_at = False, 0.0
    while True:
        try:
            for item in source.denied(True, limit, host, workload, latest):
                working, failed_at = True, 0.0
                if isinstance(item, Denial):
                    key = (item.id, item.last_seen, item.count)
                    if key in shown:
                        continue
                    if item.last_seen and (latest is None or item.last_seen > latest):
                        latest, shown = item.last_seen, {k for k in shown if k[1] == item.last_seen}
                    shown.add(key)
                yield item
        except CliError as error:
            now = clock()
            if error.exit_code is not Exit.UNREACHABLE or not working or (failed_at and now - failed_at > PATIENCE):
                raise
            if not failed_at:
                failed_at = now
                tell([line(warn("The stream broke"), f": {error.message}. Trying again for {PATIENCE:.0f} s.")])
        pause(PAUSE)
