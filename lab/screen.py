"""`segctl` run as in a terminal of a given width, so that the demo shows what a user would see."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
from dataclasses import dataclass
from typing import Protocol


class Terminal(Protocol):
    """Where an administrator types `segctl`."""

    def segctl(self, *arguments: str) -> subprocess.CompletedProcess[str]: ...
    def segctl_started(self, *arguments: str, output: int) -> subprocess.Popen[str]:
        """With its output to a file descriptor, and without waiting for its end."""


@dataclass(frozen=True, slots=True)
class Screen:
    """`columns` is 0 where nobody watches: then the output goes through pipes and is whole."""

    columns: int = 0

    def show(self, terminal: Terminal, *arguments: str, told: bool = True) -> tuple[int, str]:
        """(exit code, what `segctl` printed, with its colours and its standard error). Where nobody watches, that can
        be left out."""
        if not self.columns:
            done = terminal.segctl(*arguments)
            return done.returncode, f"{done.stdout}{done.stderr if told or done.returncode else ''}"
        ours, its = pty.openpty()
        try:
            fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, self.columns, 0, 0))  # tty_ioctl(4)
            process = terminal.segctl_started(*arguments, output=its)
        finally:
            os.close(its)
        with os.fdopen(ours, "rb", buffering=0) as screen:
            text = bytearray()
            with contextlib.suppress(OSError):  # EIO: the last writer has closed its end, pty(7)
                while chunk := screen.read(65536):
                    text += chunk
        return process.wait(), text.decode().replace("\r\n", "\n")
