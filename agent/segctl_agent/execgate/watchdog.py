"""The supervisor: a worker that hangs would hold up every exec of a marked file, so it is killed within a second.

Its end closes the fanotify group, and the kernel then allows all that wait (fanotify(7)). The worker dies with its
supervisor, too.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import signal
import struct
import time
from collections.abc import Callable

PATIENCE_SECONDS = 0.8
"""Without a sign of life for so long, a worker hangs. With the period below: freed within a second."""
PERIOD_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_STAMP = struct.Struct("=d")
log = logging.getLogger(__name__)


class Pulse:
    """A moment that one process writes and another reads: monotonic seconds, one clock for all processes."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)  # shared with children
        self.beat()

    def beat(self) -> None:
        _STAMP.pack_into(self._memory, 0, time.monotonic())

    @property
    def age(self) -> float:
        """Seconds since the last beat."""
        return time.monotonic() - float(_STAMP.unpack_from(self._memory, 0)[0])


def supervise(work: Callable[[Callable[[], None]], int]) -> int:
    """Runs `work(alive)` in a child and answers its exit code; 1 when it was killed, because it hung or by others.
    SIGTERM ends both."""
    pulse = Pulse()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == parent:
                code = work(pulse.beat)
        except BaseException:
            log.exception("the worker of the exec gate ends")
        os._exit(code)

    def stop(*_: object) -> None:
        os.kill(pid, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1
        if pulse.age > PATIENCE_SECONDS:
            log.error("the worker gave no sign of life for %.1f s: it is killed, and every exec goes on", pulse.age)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return 1
        time.sleep(PERIOD_SECONDS)
