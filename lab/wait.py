"""Waiting for a condition with a deadline, never for an amount of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class DeadlineError(Exception):
    """A condition did not come true in time; the message says which, and what was seen last."""


def until(what: str, probe: Callable[[], T], seconds: float = 10.0, every: float = 0.02) -> T:
    """Call `probe` until it returns something true, and return that. Raises DeadlineError after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        seen = probe()
        if seen:
            return seen
        if time.monotonic() >= end:
            raise DeadlineError(f"not so after {seconds:g} s: {what}")
        time.sleep(every)
