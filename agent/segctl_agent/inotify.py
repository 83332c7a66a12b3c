"""inotify(7) through ctypes: directories of a pseudo file system, no package needed."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# linux/inotify.h
IN_ATTRIB = 0x0000_0004
IN_CLOSE_WRITE = 0x0000_0008
IN_MOVED_FROM = 0x0000_0040
IN_MOVED_TO = 0x0000_0080
IN_CREATE = 0x0000_0100
IN_DELETE = 0x0000_0200
IN_Q_OVERFLOW = 0x0000_4000
IN_IGNORED = 0x0000_8000
IN_ONLYDIR = 0x0100_0000
IN_DONT_FOLLOW = 0x0200_0000
IN_ISDIR = 0x4000_0000

_EVENT = struct.Struct("=iIII")  # struct inotify_event: wd, mask, cookie, len; then the name, NUL padded
_READ_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Event:
    """`watch` is -1 for an overflow of the queue; `name` is empty for an event of the watched directory itself."""

    watch: int
    mask: int
    name: str


class EventSource(Protocol):
    """What a watcher needs of inotify."""

    def fileno(self) -> int: ...

    def add(self, path: Path, mask: int) -> int: ...

    def read(self) -> list[Event]: ...

    def close(self) -> None: ...


class Inotify:
    """One inotify instance, non-blocking. Errors are the OSError of the system call."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]
        self._fd = int(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        if self._fd < 0:
            raise _last_error("inotify_init1")

    def fileno(self) -> int:
        return self._fd

    def add(self, path: Path, mask: int) -> int:
        """Watch a directory and return its watch descriptor: the same one when its inode is watched already."""
        watch = int(self._libc.inotify_add_watch(self._fd, os.fsencode(path), mask))
        if watch < 0:
            raise _last_error(str(path))
        return watch

    def read(self) -> list[Event]:
        """The events of one read(2), none when there is nothing to read."""
        try:
            buffer = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return []
        return parse_events(buffer)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def parse_events(buffer: bytes) -> list[Event]:
    events = []
    offset = 0
    while offset + _EVENT.size <= len(buffer):
        watch, mask, _, length = _EVENT.unpack_from(buffer, offset)
        offset += _EVENT.size
        name = os.fsdecode(buffer[offset : offset + length].partition(b"\0")[0])
        offset += length
        events.append(Event(watch, mask, name))
    return events


def _last_error(subject: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), subject)
