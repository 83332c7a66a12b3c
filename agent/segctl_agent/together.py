"""Coroutines that live and end together.

Not asyncio.TaskGroup: in Python 3.11 a group that fails inside a task may leave that task with a cancellation nobody
asked for (its next await ends it), and our report stream fails and is opened anew inside one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def until_one_ends(*parts: Coroutine[Any, Any, None]) -> list[BaseException]:
    """Runs all until one returns or fails, then cancels the rest. Answers the failures, in the order of `parts`."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
