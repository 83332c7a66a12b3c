"""One controller a state directory: the lock that `run` holds, and that `restore` must have."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segctl.errors import StateError

LOCK_FILE = "lock"


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Raises StateError when a controller runs there. The lock ends with the process that has it."""
    path = directory / LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"{path}: cannot be opened: {error.strerror}; check the owner of its directory") from error
    owner = directory.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:  # root may restore; the controller's user must get the lock after that
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StateError(
            f"{directory}: a controller runs there; stop it first (systemctl stop segctl-controller)"
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)
