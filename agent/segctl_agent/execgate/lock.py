"""Whether an exec gate runs: it holds a lock on the agent's state folder itself, in which it need not write."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from segctl.errors import StateError

_PATIENCE_SECONDS = 0.5
"""Who only looks holds the lock for a moment."""


def lock_gate(folder: Path, patience: float = _PATIENCE_SECONDS) -> int | None:
    """One gate a folder: the descriptor of the lock, held as long as the gate and its worker live. None: another has
    it. Raises StateError."""
    until = time.monotonic() + patience
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StateError(f"cannot open {folder}: {error.strerror}") from error
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(descriptor)
                return None
            time.sleep(0.01)
        else:
            return descriptor


def gate_runs(folder: Path) -> bool:
    """Raises StateError."""
    descriptor = lock_gate(folder, patience=0.0)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False
