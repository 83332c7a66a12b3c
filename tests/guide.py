"""docs/operations.md as steps that can be run: commands with what they print, files, and scenes that the tests set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GUIDE = Path(__file__).parents[1] / "docs" / "operations.md"
COMMAND = re.compile(r"(?P<place>[a-z0-9]+)(?P<prompt>[#$]) (?P<text>.+)")
SCENE = re.compile(r"<!-- scene: ([a-z0-9-]+) -->")
EXIT_CODE = re.compile(r"# exits with (\d+)$")
ELSE = "..."
"""In a line of output: something that differs."""


class GuideError(Exception):
    """The guide has something that cannot be run; the message names the line."""


@dataclass(frozen=True, slots=True)
class Command:
    """`place`: the word of the prompt. `output`: lines that it prints, in this order, among others."""

    line: int
    place: str
    root: bool
    text: str
    output: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        match = EXIT_CODE.search(self.text)
        return int(match[1]) if match else 0

    def missing(self, printed: str) -> str:
        """The first line of `output` that is not in `printed`; empty when there is none."""
        lines = iter([" ".join(line.split()) for line in printed.splitlines()])
        for wanted in self.output:
            words = [re.escape(" ".join(part.split())) for part in wanted.split(ELSE)]
            pattern = re.compile(".*".join(words))
            if not any(pattern.search(line) for line in lines):
                return wanted
        return ""


@dataclass(frozen=True, slots=True)
class File:
    """A file that the reader writes, on the operator's machine."""

    line: int
    path: str
    content: str


@dataclass(frozen=True, slots=True)
class Scene:
    """Something that happens, invisible to the reader."""

    line: int
    name: str


Step = Command | File | Scene


def steps(text: str) -> Iterator[Step]:
    """Everything that is run, in order. Raises GuideError for a fenced block that is none of ours."""
    inside, block, begin = "", [], 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith(("```", "~~~")) and not line.startswith("```"):
            raise GuideError(f"line {number}: a block begins and ends with ``` at the beginning of a line")
        if line.startswith("```") and not inside:
            inside, block, begin = line[3:].strip() or "(nothing)", [], number
        elif line.startswith("```"):
            yield from _block(inside, begin, block)
            inside = ""
        elif inside:
            block.append(line)
        elif match := SCENE.search(line):
            yield Scene(number, match[1])
    if inside:
        raise GuideError(f"line {begin}: the block does not end")


def _block(info: str, begin: int, block: list[str]) -> Iterator[Step]:
    kind, _, rest = info.partition(" ")
    if kind == "console" and rest:
        yield from _commands(rest, begin, block)
    elif kind == "yaml" and rest:
        yield File(begin, rest, "\n".join(block) + "\n")
    else:
        raise GuideError(f"line {begin}: a block is `console MACHINE` or `yaml FILE`, not {info!r}")


def _commands(place: str, begin: int, block: list[str]) -> Iterator[Command]:
    found: list[Command] = []
    for number, line in enumerate(block, begin + 1):
        if match := COMMAND.fullmatch(line):
            if match["place"] != place:
                raise GuideError(f"line {number}: a prompt of {match['place']} in a block of {place}")
            found.append(Command(number, place, match["prompt"] == "#", match["text"], ()))
        elif not found:
            raise GuideError(f"line {number}: a block begins with a prompt, such as `{place}# `")
        else:
            last = found[-1]
            found[-1] = Command(last.line, last.place, last.root, last.text, (*last.output, line))
    if not found:
        raise GuideError(f"line {begin}: a block without a command")
    yield from found


def inline_code(text: str) -> Iterator[tuple[int, str]]:
    """What stands in backticks outside of blocks, with its line."""
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            for code in re.findall(r"`([^`]+)`", line):
                yield number, code
