"""An orderly end on SIGINT and SIGTERM: the lab comes down before the process does, and nothing interrupts that."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _leave(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def leave_orderly() -> None:
    """From now on both signals raise SystemExit in the main thread, which unwinds through every context manager."""
    for number in SIGNALS:
        signal.signal(number, _leave)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore both signals in this block. Without effect outside the main thread, which alone may set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(number, signal.SIG_IGN) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
