"""Files that are either the old or the new one: write aside, fsync, rename, fsync the folder."""

from __future__ import annotations

import os
from pathlib import Path


def write_durably(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replaces `path` by `content` atomically and durably. Raises OSError; then the old content is untouched.

    The new file belongs to the owner of the folder: what root writes there, the agent's own user must be able to read.
    And nobody who may write the folder can lead root to another file by a link of the name aside.

    The rename is what makes it atomic; the fsync before keeps a crash from leaving an empty file under the final name,
    the fsync of the folder after makes the rename itself durable (rename(2), fsync(2)).
    """
    aside = path.with_name(f".{path.name}.new")
    try:
        descriptor = _new(aside, mode)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        aside.rename(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _new(path: Path, mode: int) -> int:
    """The descriptor of a file that was not there before, in the place of whatever was."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        owner = path.parent.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def sync_folder(folder: Path) -> None:
    """Makes renames and removals in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_briefly(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replaces `path` atomically for readers, without a promise about power loss: for what only tells of now."""
    aside = path.with_name(f".{path.name}.new")
    try:
        with os.fdopen(_new(aside, mode), "wb") as file:
            file.write(content)
        aside.rename(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
