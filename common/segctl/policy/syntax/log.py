"""Collects the findings of one parse, so that one mistake never hides another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from segctl.model.findings import Finding, Position, Severity
from segctl.policy.codes import CODES
from segctl.policy.syntax.suggest import Suggester

MAX_FINDINGS = 1000
"""More than anyone reads, and still small enough for one message to the command line."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a word is not what it should be: a finding without its place."""

    code: str
    message: str
    hint: str = ""


class FindingLog:
    """The findings so far. Appending is the only effect of reading a policy file."""

    def __init__(self) -> None:
        self._findings: list[Finding] = []
        self._dropped = 0
        self._silenced: frozenset[str] = frozenset()
        self._suggester = Suggester()

    def error(self, where: Position, code: str, message: str, hint: str = "") -> None:
        if code not in CODES:
            raise KeyError(f"finding code {code!r} is not in segctl.policy.codes: add it there and to docs/policy.md")
        if code in self._silenced:
            return
        if len(self._findings) >= MAX_FINDINGS:
            self._dropped += 1
            return
        self._findings.append(Finding(where, Severity.ERROR, code, message, hint))

    def problem(self, where: Position, problem: Problem) -> None:
        self.error(where, problem.code, problem.message, problem.hint)

    def silence(self, *codes: str) -> None:
        """From now on these codes would only repeat an error that is already written."""
        self._silenced |= frozenset(codes)

    def mend(self, word: str, known: Iterable[str], otherwise: str = "") -> str:
        """`did you mean X?`, or `otherwise`. Silent once the log is full: nobody would read it."""
        return "" if self._dropped else self._suggester.mend(word, known, otherwise)

    def results(self) -> tuple[Finding, ...]:
        """Every finding once, by place."""
        found = sorted(set(self._findings))
        if self._dropped:
            message = f"{self._dropped} more errors are not shown"
            last = Finding(found[-1].position, Severity.ERROR, "too-many-findings", message, "mend these first")
            found.append(last)
        return tuple(found)
