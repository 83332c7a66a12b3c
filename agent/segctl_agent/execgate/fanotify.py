"""fanotify(7) through ctypes: leave to execute a file, asked for inode by inode.

While a reader owes an answer, the exec waits (killable). Closing the group, or the end of its process, allows all that
wait. Needs CAP_SYS_ADMIN.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from pathlib import Path

# linux/fanotify.h
FAN_CLOEXEC, FAN_NONBLOCK, FAN_CLASS_CONTENT = 0x1, 0x2, 0x4
FAN_MARK_ADD, FAN_MARK_REMOVE = 0x1, 0x2
FAN_OPEN_EXEC_PERM = 0x0004_0000
FAN_ALLOW = 1
_VERSION = 3
_EVENT = struct.Struct("=IBBHQii")  # event_len, vers, reserved, metadata_len, mask, fd, pid
_RESPONSE = struct.Struct("=iI")
_READ_BYTES = 64 * _EVENT.size  # each event comes with a descriptor: fewer at a time than a process may have


@dataclass(frozen=True, slots=True)
class ExecEvent:
    """`pid`, 0 where it is in no pid namespace of ours, waits to execute the file that is open as `descriptor`."""

    descriptor: int
    pid: int


def parse_events(buffer: bytes) -> list[ExecEvent]:
    """Raises ValueError for a layout of another version: nothing of it can be answered then."""
    events = []
    offset = 0
    while offset + _EVENT.size <= len(buffer):
        length, version, _, _, mask, descriptor, pid = _EVENT.unpack_from(buffer, offset)
        if version != _VERSION or length < _EVENT.size:
            raise ValueError(f"fanotify speaks version {version} with events of {length} bytes; known is {_VERSION}")
        offset += length
        if mask & FAN_OPEN_EXEC_PERM and descriptor >= 0:
            events.append(ExecEvent(descriptor, pid))
    return events


class Fanotify:
    """One group, non-blocking. Errors are the OSError of the system call."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.fanotify_init.argtypes = [ctypes.c_uint, ctypes.c_uint]
        self._libc.fanotify_mark.argtypes = [
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint64,
            ctypes.c_int,
            ctypes.c_char_p,
        ]
        flags = FAN_CLASS_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK
        self._fd = int(self._libc.fanotify_init(flags, os.O_RDONLY | os.O_CLOEXEC))
        if self._fd < 0:
            raise _last_error("fanotify_init")

    def fileno(self) -> int:
        return self._fd

    def mark(self, descriptor: int) -> None:
        """Ask for each exec of the open file `descriptor`, by whatever name."""
        self._change(FAN_MARK_ADD, descriptor)

    def unmark(self, descriptor: int) -> None:
        self._change(FAN_MARK_REMOVE, descriptor)

    def _change(self, flag: int, descriptor: int) -> None:
        # A NULL path marks what the descriptor itself stands for (fanotify_mark(2)).
        if self._libc.fanotify_mark(self._fd, flag, FAN_OPEN_EXEC_PERM, descriptor, None):
            raise _last_error("fanotify_mark")

    def read(self) -> list[ExecEvent]:
        """The execs that wait now, each to be answered by `allow`; none when there are none."""
        try:
            return parse_events(os.read(self._fd, _READ_BYTES))
        except BlockingIOError:
            return []

    def allow(self, event: ExecEvent) -> None:
        """Lets the exec go on and closes the event's descriptor."""
        try:
            os.write(self._fd, _RESPONSE.pack(event.descriptor, FAN_ALLOW))
        except FileNotFoundError:
            pass  # the process was killed while it waited
        finally:
            os.close(event.descriptor)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_to_mark(path: Path) -> int:
    """A descriptor of a regular file, without waiting for what a pipe or a device would have to say."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def _last_error(subject: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), subject)
