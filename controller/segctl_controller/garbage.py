"""Python's cycle collector, kept from walking a whole fleet in the midst of a push.

By itself it walks every object there is whenever a quarter more have come: with ten thousand sessions that stops the
event loop for a second. What lives on is set aside here (gc.freeze), and walked when nothing is under way.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

YOUNG = (2_000, 5, 1_000_000_000)
"""Allocations before the youngest are walked; such walks before the next older are, some ten thousand objects; and of
those before all are: never."""
EVERY = 60.0
"""Seconds between walks of what came since the last one."""
WHOLE = 60
"""Of these, one walks everything: what was set aside and died since, in a cycle."""
MOST_SKIPPED = 10
"""Walks that wait for what is under way: a rollout may take days, and garbage must not gather that long."""


class Collector:
    """`busy`: something is under way that must not wait."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        self._busy = busy

    async def run(self) -> None:
        """Until it is cancelled: then Python collects by itself again."""
        before = gc.get_threshold()
        gc.set_threshold(*YOUNG)
        try:
            turn = skipped = 0
            while True:
                if self._busy() and skipped < MOST_SKIPPED:
                    skipped += 1
                else:
                    if turn % WHOLE == 0:
                        gc.unfreeze()
                    gc.collect()
                    gc.freeze()
                    turn, skipped = turn + 1, 0
                await asyncio.sleep(EVERY)
        finally:
            gc.unfreeze()
            gc.set_threshold(*before)
