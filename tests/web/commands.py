"""The boxes to copy from: each holds commands that the command line's own parsers take, or YAML. No prose."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import yaml
from playwright.sync_api import Page
from segctl.cli.main import root as segctl
from segctl_agent.main import main as segctl_agent

PROGRAMS: dict[str, click.Group] = {"segctl": segctl, "segctl-agent": segctl_agent}
OPEN_ALL = """() => {
  document.querySelectorAll("main details").forEach((one) => (one.open = true));
  const closed = [...document.querySelectorAll('main [aria-expanded="false"]')];
  closed.filter((one) => one.textContent === "Details").forEach((one) => one.click());
}"""


def parse(text: str) -> None:
    """Raises click.ClickException, or KeyError for another program."""
    name, *words = shlex.split(text)
    command: click.Command | None = PROGRAMS[name]
    parent = None
    while command is not None:
        parent = context = command.make_context(name, words, parent)
        words = [*context._protected_args, *context.args]
        if not isinstance(command, click.Group) or not words:
            return
        found, command, words = command.resolve_command(context, words)
        name = found or ""


def boxes(page: Page) -> Iterator[str]:
    """What the page shows to copy, with everything opened."""
    page.evaluate(OPEN_ALL)
    page.wait_for_timeout(100)
    yield from page.locator(".command pre").all_inner_texts()


def wrong_boxes(page: Page) -> list[str]:
    return [f"{page.url}: {text}: {why}" for text in boxes(page) if (why := wrong(text))]


def wrong(text: str) -> str:
    """Why nobody could use it; empty: it is right."""
    if text.split(maxsplit=1)[0] not in PROGRAMS:
        return "" if isinstance(yaml.safe_load(text), dict | list) else "neither a command of segctl nor YAML"
    try:
        for line in text.splitlines():
            parse(line)
    except (click.ClickException, KeyError) as error:
        return str(error)
    return ""
