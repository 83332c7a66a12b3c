"""What `doctor` says of a machine, shared by agent and controller: findings, their order, text and JSON."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from segctl import __version__
from segctl.errors import SegctlError
from segctl.logs import printable

EXIT_PROBLEMS = 3


class Level(Enum):
    """In the order in which they are shown. UNKNOWN: it could not be looked at, and the text says why."""

    PROBLEM = "problem"
    WARNING = "warning"
    UNKNOWN = "unknown"
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` is what was looked at, `text` what it means, `next` what to do: a command, or words; empty: nothing."""

    check: str
    level: Level
    text: str
    next: str = ""


Check = Callable[[], Iterable[Finding]]


def ok(check: str, text: str) -> Finding:
    return Finding(check, Level.OK, text)


def warning(check: str, text: str, then: str) -> Finding:
    return Finding(check, Level.WARNING, text, then)


def problem(check: str, text: str, then: str) -> Finding:
    return Finding(check, Level.PROBLEM, text, then)


def unknown(check: str, text: str, then: str = "") -> Finding:
    return Finding(check, Level.UNKNOWN, text, then)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Of one machine. `subject` is what it is, for people: `host web1`."""

    subject: str
    findings: tuple[Finding, ...]

    def count(self, level: Level) -> int:
        return sum(f.level is level for f in self.findings)

    @property
    def exit_code(self) -> int:
        """0 without a problem; warnings, and what could not be looked at, are none."""
        return EXIT_PROBLEMS if self.count(Level.PROBLEM) else 0


def examine(subject: str, checks: Sequence[tuple[str, Check]]) -> Diagnosis:
    """All checks, in order. One that fails says so and keeps none of the others from being made."""
    found: list[Finding] = []
    for name, check in checks:
        try:
            found += check()
        except (SegctlError, OSError, ValueError) as error:
            found.append(unknown(name, f"it could not be looked at: {error}"))
    return Diagnosis(subject, tuple(found))


def lines(diagnosis: Diagnosis, width: int = 0) -> list[str]:
    """The verdict, then the worst first, each with the next step on a line of its own; what could not be checked, and
    what is well, after that. Folded at `width` characters; 0: not at all."""
    counts = {level: diagnosis.count(level) for level in Level}
    out = [f"{diagnosis.subject}, segctl {__version__}: {_verdict(counts)}"]
    margin = 13 + max((len(f.check) for f in diagnosis.findings), default=0)
    words = {Level.PROBLEM: "PROBLEM", Level.WARNING: "warning", Level.UNKNOWN: "unknown", Level.OK: "ok"}
    for level in Level:
        for finding in diagnosis.findings:
            if finding.level is level:
                texts = [finding.text, *([f"next: {finding.next}"] if finding.next else [])]
                first, *rest = [piece for text in texts for piece in _folded(printable(text), width - margin)]
                out.append(f"  {words[level]:<7}  {finding.check:<{margin - 13}}  {first}")
                out += [f"{'':{margin}}{piece}" for piece in rest]
    return out


def _folded(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) if width > 20 else [text]


def _verdict(counts: dict[Level, int]) -> str:
    if not counts[Level.PROBLEM] and not counts[Level.WARNING]:
        said = "all is well"
    else:
        parts = [(counts[Level.PROBLEM], "problem"), (counts[Level.WARNING], "warning")]
        said = ", ".join(f"{n} {noun}{'' if n == 1 else 's'}" for n, noun in parts if n)
    return f"{said}, as far as it could be looked at" if counts[Level.UNKNOWN] else said


def terminal_width() -> int:
    """Of stdout; 0 where nobody watches."""
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 0


def document(diagnosis: Diagnosis) -> str:
    """The JSON of it."""
    body = {
        "subject": diagnosis.subject,
        "version": __version__,
        "problems": diagnosis.count(Level.PROBLEM),
        "warnings": diagnosis.count(Level.WARNING),
        "unknown": diagnosis.count(Level.UNKNOWN),
        "findings": [
            {"check": f.check, "level": f.level.value, "text": f.text, "next": f.next} for f in diagnosis.findings
        ],
    }
    return json.dumps(body, indent=2)
