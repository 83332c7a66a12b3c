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
from segctl.cli.output import Line, bad, line, note, paint, wrap
from segctl.errors import SegctlError


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
        """What is wrong, then the mend behind an arrow; both folded on a terminal."""
        text = [piece for part in message.splitlines() for piece in wrap(part, self.width - 7 if self.width else 0)]
        mends = [piece for part in mend.splitlines() for piece in wrap(part, self.width - 2 if self.width else 0)]
        lines = [line(bad("error: ") if not i else "       ", piece) for i, piece in enumerate(text or [""])]
        self.tell([*lines, *(line(note("→ ") if not i else "  ", piece) for i, piece in enumerate(mends))])

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


class ReaderGoneError(SegctlError):
    """Whoever read our output has gone (`segctl denied | head`)."""


def _put(stream: TextIO, text: str) -> None:
    try:
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError as error:
        # click would end the process with 1 on a bare BrokenPipeError.
        raise ReaderGoneError("the reader of the output has gone") from error
