"""The options of how a generation comes into force: what `push` and `rollback` share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

import click

from segctl.cli.commands.options import TagPair
from segctl.cli.views import Plan
from segctl.cli.way import Way
from segctl.model.policy import Mode

WATCH = 3
"""Seconds, where the plan says that something may break."""
LONGEST = 24 * 3600
P = ParamSpec("P")
T = TypeVar("T")

_OPTIONS = (
    click.option(
        "--wait",
        type=click.IntRange(1, 600),
        default=30,
        show_default=True,
        metavar="SECONDS",
        help="How long the hosts have for each step.",
    ),
    click.option(
        "--watch",
        type=click.IntRange(0, LONGEST),
        envvar="SEGCTL_WATCH",
        metavar="SECONDS",
        help=f"Look out for broken flows before it is confirmed. [default: {WATCH}; 0 where nothing is denied anew]",
    ),
    click.option(
        "--canary",
        type=TagPair(),
        multiple=True,
        metavar="KEY=VALUE",
        help="Hosts with this tag go first; given again: with all of these tags.",
    ),
    click.option(
        "--waves",
        type=click.IntRange(1, 100),
        default=1,
        show_default=True,
        metavar="NUMBER",
        help="In how many parts the others follow.",
    ),
    click.option("--pause", type=click.IntRange(0, LONGEST), default=0, metavar="SECONDS", help="Between two waves."),
    click.option(
        "--accept-denials", is_flag=True, help="Flows that passed before may be denied: do not undo it for them."
    ),
    click.option(
        "--without", multiple=True, metavar="HOST", help="It has no say, and takes what is confirmed; repeat."
    ),
    click.option(
        "--allow-offline", is_flag=True, help="Hosts that are offline do not count as a failure (exit 0, not 5)."
    ),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options say. `watch` is None where the plan decides."""

    wait: int
    watch: int | None
    canary: tuple[tuple[str, str], ...]
    waves: int
    pause: int
    accept_denials: bool
    without: tuple[str, ...]
    allow_offline: bool

    def way(self, planned: Plan) -> Way:
        """Nothing can break where nothing is denied that was not denied before."""
        stricter = any(m.after == Mode.ENFORCE.value and m.before != m.after for m in planned.modes)
        may_break = stricter or planned.cut_total or any(not c.allowed for c in planned.changes)
        watch = self.watch if self.watch is not None else WATCH if may_break else 0
        return Way(self.wait, watch, dict(self.canary), self.waves, self.pause, self.accept_denials, self.without)


def way_options(command: Callable[..., T]) -> Callable[..., T]:
    """Adds the options; the command takes them as one keyword argument, `asked`."""

    @wraps(command)
    def taking(*args: object, **values: object) -> T:
        fields = {name: values.pop(name) for name in Asked.__slots__}
        return command(*args, asked=Asked(**fields), **values)  # type: ignore[arg-type]

    for option in reversed(_OPTIONS):
        taking = option(taking)
    return taking
