"""Python's cycle collector, kept from stopping the event loop of a controller with thousands of sessions.

By itself it walks all there is whenever a quarter more has come: with ten thousand sessions for a second. And it walks
the youngest when so many more have come than gone: where each of ten thousand proofs takes the place of another one
that is not often, and then there are a hundred thousand of them. So here they are walked a few thousand at a time, what
lives on is set aside (gc.freeze), and that is walked seldom, when nothing is under way, or when memory has grown.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from collections.abc import Callable
from pathlib import Path

THRESHOLDS = (50_000, 1_000_000_000, 1_000_000_000)
"""So many more than gone, and Python walks the youngest by itself: threads may make more than our turns find. The
others never."""
EVERY, IDLE = 0.05, 0.25
"""Seconds between walks of the youngest: the longer where the loop did next to nothing since the last one."""
IDLE_SHARE = 0.1
"""Of the time, that the loop may work and still does next to nothing."""
OLDER = 20
"""Of these, one also walks what outlived them since the last such walk, and sets aside what is left."""
BRIEF = 0.005
"""Seconds of CPU that such a walk may take, which is what the walks of the youngest took until then. More comes with a
change for the whole fleet, and is set aside unseen."""
WHOLE = 3600.0
"""Seconds between walks of everything: what was set aside and died since, in a cycle."""
MORE = 512 * 1024 * 1024
"""Bytes of memory more than after the last walk of everything, or half of it: then the next one is due. Each
connection of the web UI leaves a cycle of asyncio, and strangers make as many as they like."""
LATEST = 600.0
"""Seconds that this waits for what is under way: a rollout may take days, and garbage must not gather that long."""


class Collector:
    """`busy`: something is under way that must not wait."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        self._busy = busy

    async def run(self) -> None:
        """Until it is cancelled: then Python collects by itself again."""
        before = gc.get_threshold()
        gc.set_threshold(*THRESHOLDS)
        try:
            whole_at = time.monotonic()
            turn, walks, took, most, every = 0, 0, 0.0, 0, EVERY
            while True:
                if turn % OLDER == 0 and _resident() > most:
                    whole_at = min(whole_at, time.monotonic())
                late = time.monotonic() - whole_at
                if late > LATEST or (late >= 0 and not self._busy()):
                    gc.unfreeze()
                    gc.collect()
                    gc.freeze()
                    whole_at = time.monotonic() + WHOLE
                    walks, took = 0, 0.0
                    most = _resident() + max(MORE, _resident() // 2)
                else:
                    # More walks of the youngest than ours: Python made some by itself.
                    burst = took >= BRIEF or gc.get_count()[1] > walks
                    older = turn % OLDER == 0
                    began = time.thread_time()
                    gc.collect(1 if older and not burst else 0)
                    took += time.thread_time() - began
                    walks += 1
                    if older or burst:
                        gc.freeze()
                        walks, took = 0, 0.0
                turn += 1
                worked = time.thread_time()
                await asyncio.sleep(every)
                every = EVERY if time.thread_time() - worked > IDLE_SHARE * every else IDLE
        finally:
            gc.unfreeze()
            gc.set_threshold(*before)


def _resident() -> int:
    """Bytes of memory that this process has (proc_pid_statm(5))."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
