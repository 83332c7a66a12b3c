"""How the demo speaks: steps, commands with their real output, and checks that count."""

from __future__ import annotations

import os
import shlex
import sys
import textwrap
import time

from lab.fleet import Fleet
from lab.flows import FAMILIES, Flow, try_flows

INDENT = "   "


class Story:
    """Prints as it goes; `failures` says in the end what was not so."""

    def __init__(self, fleet: Fleet, pause: float = 0.0) -> None:
        self.fleet = fleet
        self.pause = pause
        self.failures: list[str] = []
        self._steps = 0
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def step(self, title: str, why: str = "") -> None:
        if self._steps:
            time.sleep(self.pause)
        self._steps += 1
        heading = f"{self._steps:2} {title}"
        print(f"\n{self._paint('1', heading)}")
        if why:
            print(f"{INDENT}{why}")

    def check(self, holds: bool, what: str, seen: str = "") -> None:
        mark = self._paint("32", "✔") if holds else self._paint("1;31", "✘")
        detail = f"   {self._paint('2', seen)}" if seen else ""
        print(f"{INDENT}{mark} {what}{detail}", flush=True)
        if not holds:
            self.failures.append(f"step {self._steps}: {what}{f' (seen: {seen})' if seen else ''}")

    def segctl(self, *arguments: str, after: str = "") -> None:
        """Show a command as a user types it and what it prints; it must succeed. With `after`, what came up to the line
        that starts so was shown before and is left out."""
        self.typed(shlex.join(["segctl", *arguments]))
        done = self.fleet.segctl(*arguments)
        lines = f"{done.stdout}{done.stderr}".rstrip().splitlines()
        known = [number for number, line in enumerate(lines) if after and line.startswith(after)][:1]
        shown = ["... the plan as above", *lines[known[0] :]] if known else lines
        print(textwrap.indent("\n".join(shown), INDENT))
        if done.returncode != 0:
            self.check(False, f"segctl {arguments[0]} succeeds", f"it ended with {done.returncode}")

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

    def _paint(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._colour else text
