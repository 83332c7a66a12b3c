"""How a command ends: the documented exit codes, and the error that carries one."""

from __future__ import annotations

from enum import IntEnum

from segctl.errors import SegctlError


class Exit(IntEnum):
    """Stable; docs/cli.md lists them for scripts."""

    OK = 0
    FINDINGS = 1
    """The thing asked is not so: findings, a refused push, an explanation that differs from the kernel."""
    USAGE = 2
    UNREACHABLE = 3
    NOT_PERMITTED = 4
    PARTIAL = 5
    """Stored and active, but not every host proved it in time."""
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class CliError(SegctlError):
    """Ends the command. `message` says what is wrong and where, `mend` what to do (a sentence, or empty)."""

    def __init__(self, message: str, mend: str = "", exit_code: Exit = Exit.FINDINGS) -> None:
        self.message = message
        self.mend = mend
        self.exit_code = exit_code
        super().__init__(f"{message}\n{mend}" if mend else message)
