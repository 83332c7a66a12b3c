"""What parse and check report: a place, a problem and its mend."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a policy file. Lines and columns count from 1; line 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


NOWHERE = Position("-")


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One problem. `code` is stable and documented in docs/policy.md; `hint` is the mend, a sentence or empty."""

    position: Position
    severity: Severity
    code: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        mend = f" ({self.hint})" if self.hint else ""
        text = f"{self.message}{mend}"
        return text if self.position == NOWHERE else f"{self.position}: {self.severity.value}: {text} [{self.code}]"
