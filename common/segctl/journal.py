"""Log records into the journal, with fields: systemd's native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/).

Ours, because nothing on PyPI fits: systemd-python and cysystemd need libsystemd (headers, or wheels for one processor),
and logging-journald 0.6 blocks its caller for as long as journald does not read, and sends every argument of a record
under names of its own. An agent must neither wait for the journal nor send what is not documented.
"""

from __future__ import annotations

import array
import errno
import fcntl
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
PATIENCE_SECONDS = 0.1
"""For a journal that does not read. After that nothing waits until it reads again; what did not go is counted."""
_LENGTH = struct.Struct("<Q")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))

FieldsOf = Callable[[logging.LogRecord], Mapping[str, str]]


def stderr_is_journal(environment: Mapping[str, str], descriptor: int) -> bool:
    """JOURNAL_STREAM names device and inode (systemd.exec(5)): a child whose stderr goes elsewhere inherits it too."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """One entry. Every value goes with its length, so that none can pose as a field of its own."""
    out = bytearray()
    for name, value in fields:
        data = value.encode(errors="backslashreplace")
        out += name.encode() + b"\n" + _LENGTH.pack(len(data)) + data + b"\n"
    return bytes(out)


def priority(level: int) -> int:
    """Of logging, as syslog(3) counts."""
    return next((number for least, number in _PRIORITIES if level >= least), 7)


class JournalHandler(logging.Handler):
    """MESSAGE, PRIORITY, SYSLOG_IDENTIFIER, CODE_FILE, CODE_LINE, CODE_FUNC, SEGCTL_LOGGER and the fields of the record
    as SEGCTL_NAME; `constant` are such fields of every line."""

    def __init__(self, identifier: str, fields_of: FieldsOf, path: Path = SOCKET) -> None:
        super().__init__()
        self.constant: dict[str, str] = {}
        self._identifier, self._fields_of, self._path, self._link = identifier, fields_of, str(path), _socket()
        self._reads, self._lost = True, 0

    @classmethod
    def open(cls, identifier: str, fields_of: FieldsOf, path: Path = SOCKET) -> JournalHandler | None:
        """None where the socket is not there or not for us: stderr is the journal all the same."""
        probe = _socket()
        try:
            probe.connect(str(path))
        except OSError:
            return None
        finally:
            probe.close()
        return cls(identifier, fields_of, path)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            entry = encode(self._entry(record))
        except Exception:  # noqa: BLE001 - as every handler of logging: a bad format string must not end the caller
            self.handleError(record)
            return
        self._link.settimeout(PATIENCE_SECONDS if self._reads else 0.0)
        try:
            self._send(entry)
        except OSError:
            self._reads, self._lost = False, self._lost + 1
        else:
            self._reads, self._lost = True, 0

    def close(self) -> None:
        self._link.close()
        super().close()

    def _entry(self, record: logging.LogRecord) -> list[tuple[str, str]]:
        found = {"LOGGER": record.name, **self.constant, **self._fields_of(record)}
        if self._lost:
            found["LINES_LOST"] = str(self._lost)
        return [
            ("MESSAGE", self.format(record)),
            ("PRIORITY", str(priority(record.levelno))),
            ("SYSLOG_IDENTIFIER", self._identifier),
            ("CODE_FILE", record.pathname),
            ("CODE_LINE", str(record.lineno)),
            ("CODE_FUNC", record.funcName or ""),
            *((f"SEGCTL_{name}", value) for name, value in found.items()),
        ]

    def _send(self, entry: bytes) -> None:
        """To the path each time, not to a connection: journald makes its socket anew when it restarts."""
        try:
            self._link.sendto(entry, self._path)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_file(entry)

    def _send_file(self, entry: bytes) -> None:
        """What is too long for a datagram goes as a sealed file."""
        file = os.memfd_create("segctl-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with os.fdopen(os.dup(file), "wb") as out:
                out.write(entry)
            with suppress(OSError):
                fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            passed = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))
            self._link.sendmsg([b""], [passed], 0, self._path)
        finally:
            os.close(file)


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
