"""The view of `segctl check`. It stands alone, so that this command does not load the views of all others."""

from __future__ import annotations

from dataclasses import dataclass

from segctl.model.findings import Finding


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`hosts` is the number of enrolled hosts the check looked at, None without --fleet."""

    ok: bool
    errors: int
    warnings: int
    files: int
    hosts: int | None
    findings: tuple[Finding, ...] = ()
