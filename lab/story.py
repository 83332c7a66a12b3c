"""How the demo speaks: steps, commands with their real output, and checks that count."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

from lab.fleet import Fleet
from lab.flows import FAMILIES, Flow, try_flows
from lab.screen import Screen, Terminal

INDENT = "   "
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Story:
    """Prints as it goes; `failures` says in the end what was not so. `terminal` is where `segctl` runs."""

    def __init__(self, fleet: Fleet, pause: float = 0.0) -> None:
        self.fleet = fleet
        self.terminal: Terminal = fleet
        self.pause = pause
        self.failures: list[str] = []
        self._steps = 0
        self._watched = sys.stdout.isatty()
        self._colour = self._watched and "NO_COLOR" not in os.environ

    def at(self, terminal: Terminal) -> Story:
        """The same, and its commands run elsewhere from now on."""
        self.terminal = terminal
        return self

    def step(self, title: str, *why: str) -> None:
        if self._steps:
            time.sleep(self.pause)
        self._steps += 1
        heading = f"{self._steps:2} {title}"
        print(f"\n{self._paint('1', heading)}")
        for text in why:
            print(f"{INDENT}{text}")

    def check(self, holds: bool, what: str, seen: str = "") -> None:
        mark = self._paint("32", "✔") if holds else self._paint("1;31", "✘")
        print(f"{INDENT}{mark} {what}{self._detail(what, seen)}", flush=True)
        if not holds:
            self.failures.append(f"step {self._steps}: {what}{f' (seen: {seen})' if seen else ''}")

    def segctl(
        self,
        *arguments: str,
        after: str = "",
        instead: str = "... the plan",
        only: tuple[str, ...] = (),
        quiet: bool = False,
    ) -> str:
        """Show a command as a user types it and what it prints, which is returned; it must succeed. With `after`, what
        comes before the line that starts so is left out, and said in the words of `instead`; with `only`, all
        paragraphs but those that have one of the words; `quiet` leaves out its standard error. Where somebody watches,
        it writes to a terminal that leaves room for the indent."""
        self.typed(shlex.join(["segctl", *arguments]))
        columns = shutil.get_terminal_size().columns - len(INDENT) if self._watched else 0
        code, text = Screen(0 if quiet else columns).show(self.terminal, *arguments, told=not quiet)
        lines = excerpt(text.rstrip(), only).splitlines()
        known = [number for number, line in enumerate(lines) if after and COLOUR.sub("", line).startswith(after)][:1]
        shown = [instead, *lines[known[0] :]] if known else lines
        print(textwrap.indent("\n".join(shown), INDENT))
        if code != 0:
            self.check(False, f"segctl {arguments[0]} succeeds", f"it ended with {code}")
        return COLOUR.sub("", text)

    def typed(self, command: str, output: str = "") -> None:
        """Show a command as it would be typed, and what it prints."""
        line = f"$ {command}"
        print(f"{INDENT}{self._paint('36', line)}", flush=True)
        if output:
            print(textwrap.indent(output.rstrip(), INDENT))

    def flows(self, *flows: Flow) -> None:
        """Try them all at once, each over IPv4 and IPv6, and show them in order."""
        tried = try_flows(self.fleet, *flows)
        for flow in flows:
            seen = [one for one in tried if one.flow is flow]
            families = " and ".join(FAMILIES[one.family] for one in seen)
            shown = next((one for one in seen if not one.holds), seen[0]).answer.text
            verdict = "passes " if flow.passes else "refused"
            self.check(all(one.holds for one in seen), f"{verdict}  {flow}, {families}", shown)

    def _detail(self, what: str, seen: str) -> str:
        """Behind what was checked, or below it where that does not fit a terminal."""
        if not seen:
            return ""
        columns = shutil.get_terminal_size().columns
        if not self._watched or len(f"{INDENT}* {what}   {seen}") <= columns:
            return f"   {self._paint('2', seen)}"
        below = textwrap.wrap(seen, columns - len(INDENT) - 2, break_on_hyphens=False)
        return "".join(f"\n{INDENT}  {self._paint('2', text)}" for text in below)

    def _paint(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._colour else text


def excerpt(text: str, words: tuple[str, ...]) -> str:
    """The paragraphs that have one of the words, with dots for the others; all of them without words."""
    shown: list[str] = []
    for paragraph in text.split("\n\n"):
        if not words or any(word in paragraph for word in words):
            shown.append(paragraph)
        elif not shown or shown[-1] != "...":
            shown.append("...")
    return "\n\n".join(shown) if not words else "\n".join(shown)


@dataclass(frozen=True, slots=True)
class Demo:
    """`policy` is a copy of examples/shop that the story may change."""

    fleet: Fleet
    story: Story
    policy: Path
