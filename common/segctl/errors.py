"""The errors of segctl, in one tree. A message says what is wrong, where, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segctl.model.findings import Finding


class SegctlError(Exception):
    """Base of every error that segctl raises on purpose."""


class PolicyError(SegctlError):
    """A policy that cannot be used. Carries every finding, not only the first."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(str(f) for f in self.findings))


class WireError(SegctlError):
    """A message that breaks the protocol: a field missing, out of bounds, or a digest that does not fit."""


class KernelError(SegctlError):
    """The kernel refused or cannot do what was asked. Nothing of the transaction was applied."""


class KernelFullError(KernelError):
    """A kernel set is full (ENFILE, ENOSPC or ENOMEM). Nothing of the transaction was applied."""


class KernelFormError(KernelError):
    """The kernel does not take a message in the form that we gave it (EINVAL and the like): another's words for the
    same may pass. Nothing of the transaction was applied. `what`: the operation that was refused."""

    def __init__(self, message: str, what: str = "") -> None:
        self.what = what
        super().__init__(message)


class StateError(SegctlError):
    """A state file (identity, generation, database) is missing, corrupt or not writable."""


class EnrolmentError(SegctlError):
    """A join token or a certificate was refused."""


class ControllerUnreachableError(SegctlError):
    """The controller could not be reached, or it refused the connection."""
