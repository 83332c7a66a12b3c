"""The rim: where lines go, whether they are coloured, how wide they may be, and whether anybody can answer."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

from segctl.cli.exits import CliError, Exit
from segctl.cli.output import Line, bad, line, note, paint


@dataclass(frozen=True, slots=True)
class Terminal:
    """`width` is 0 where nobody watches: then nothing is cut."""

    colour: bool = False
    error_colour: bool = False
    interactive: bool = False
    watched: bool = False
    width: int = 0

    @classmethod
    def of_process(cls, environment: Mapping[str, str]) -> Terminal:
        """What this process runs in. NO_COLOR (no-color.org) and TERM=dumb turn colour off."""
        plain = bool(environment.get("NO_COLOR")) or environment.get("TERM") == "dumb"
        watched, errors = sys.stdout.isatty(), sys.stderr.isatty()
        return cls(
            colour=watched and not plain,
            error_colour=errors and not plain,
            interactive=watched and sys.stdin.isatty(),
            watched=watched,
            width=shutil.get_terminal_size((100, 24)).columns if watched else 0,
        )

    def show(self, lines: Iterable[Line]) -> None:
        """Write each line as it comes, so that a stream is seen at once."""
        for spans in lines:
            self.write(paint(spans, self.colour))

    def write(self, text: str) -> None:
        _put(sys.stdout, text)

    def tell(self, lines: Iterable[Line]) -> None:
        """Progress and remarks, on stderr: never part of the result."""
        for spans in lines:
            _put(sys.stderr, paint(spans, self.error_colour))

    def error(self, message: str, mend: str = "") -> None:
        head, *rest = message.splitlines() or [""]
        lines = [line(bad("error: "), head), *(line("  ", text) for text in rest)]
        self.tell([*lines, *(line(note("  " if i else "→ "), text) for i, text in enumerate(mend.splitlines()))])

    def confirm(self, question: str, mend: str) -> bool:
        """Ask on a terminal. Raises CliError with the mend where nobody can answer."""
        if not self.interactive:
            raise CliError(f"{question} Nobody can answer: this is no terminal.", mend, Exit.USAGE)
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in {"y", "yes"}


def utc_now() -> datetime:
    return datetime.now(UTC)


def environment() -> Mapping[str, str]:
    return os.environ


def _put(stream: TextIO, text: str) -> None:
    stream.write(text + "\n")
    stream.flush()
