"""`segctl` run as in a terminal of a given width, so that the demo shows what a user would see."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import termios
from dataclasses import dataclass

from lab.fleet import Fleet


@dataclass(frozen=True, slots=True)
class Screen:
    """`columns` is 0 where nobody watches: then the output goes through pipes and is whole."""

    columns: int = 0

    def show(self, fleet: Fleet, *arguments: str) -> tuple[int, str]:
        """(exit code, what `segctl` printed, with its colours and its standard error)."""
        if not self.columns:
            done = fleet.segctl(*arguments)
            return done.returncode, f"{done.stdout}{done.stderr}"
        ours, its = pty.openpty()
        try:
            fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, self.columns, 0, 0))  # tty_ioctl(4)
            process = fleet.segctl_started(*arguments, output=its)
        finally:
            os.close(its)
        with os.fdopen(ours, "rb", buffering=0) as screen:
            text = bytearray()
            with contextlib.suppress(OSError):  # EIO: the last writer has closed its end, pty(7)
                while chunk := screen.read(65536):
                    text += chunk
        return process.wait(), text.decode().replace("\r\n", "\n")
