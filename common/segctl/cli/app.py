"""What every command shares: its options, and the way out for its result."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segctl.cli.output import Line
from segctl.cli.terminal import Terminal, utc_now
from segctl.cli.views_json import document, record

if TYPE_CHECKING:
    from segctl.cli.client import Controller


@dataclass(frozen=True, slots=True)
class App:
    """The surroundings of one run. `directory` is the client configuration; `json` asks for documents, not text."""

    terminal: Terminal = field(default_factory=Terminal)
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    json: bool = False
    clock: Callable[[], datetime] = utc_now

    @property
    def configuration(self) -> Path:
        """--config, then SEGCTL_CONFIG, then ~/.config/segctl."""
        chosen = self.environment.get("SEGCTL_CONFIG")
        home = self.environment.get("HOME") or "~"
        return self.directory or (Path(chosen) if chosen else Path(home).expanduser() / ".config" / "segctl")

    def connect(self) -> Controller:
        """The controller of the configuration. grpc is imported here: commands that stay offline start without it."""
        # gRPC writes its own lines about failed handshakes to stderr; ours say more. It reads this when it is imported.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from segctl.cli.bearer import bearer_of
        from segctl.cli.client import Controller
        from segctl.cli.config import load_config

        config = load_config(self.configuration)
        return Controller(config, bearer_of(self.environment, config))

    def result(self, value: object, lines: Iterable[Line]) -> None:
        """The result of a command: one JSON document, or the lines."""
        if self.json:
            self.terminal.write(document(value))
        else:
            self.terminal.show(lines)

    def item(self, kind: str, value: object, lines: Iterable[Line]) -> None:
        """One piece of a stream: one JSON object on a line, or the lines."""
        if self.json:
            self.terminal.write(record(kind, value))
        else:
            self.terminal.show(lines)

    def remark(self, lines: Iterable[Line]) -> None:
        """Something for the eyes of a person only."""
        if not self.json:
            self.terminal.tell(lines)


class Verb(click.Command):
    """A command that takes --json and --config after its name too, and whose help ends with examples and effect."""

    # click's own decorator passes what click.Command takes.
    def __init__(self, name: str | None, *, examples: Sequence[str], changes: str, **attributes: Any) -> None:  # noqa: ANN401
        super().__init__(name, **attributes)
        self.examples = tuple(examples)
        self.changes = changes

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return insert_options(super().get_params(ctx))

    def invoke(self, ctx: click.Context) -> object:
        take_common_options(ctx)
        return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Changes"):
            formatter.write_text(self.changes)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")
        super().format_epilog(ctx, formatter)


COMMON: tuple[click.Parameter, ...] = (
    click.Option(["--json"], is_flag=True, help="Print JSON: one document, or one a line for streams."),
    click.Option(
        ["--config"],
        metavar="DIR",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where client.json and the certificate are.  [default: $SEGCTL_CONFIG or ~/.config/segctl]",
    ),
)


def insert_options(params: list[click.Parameter]) -> list[click.Parameter]:
    """The common options before --help, which click puts last."""
    return [*params[:-1], *COMMON, *params[-1:]]


def take_common_options(ctx: click.Context) -> None:
    """Move --json and --config from the parameters of a command into the App it will see."""
    json, directory = ctx.params.pop("json", False), ctx.params.pop("config", None)
    app = ctx.find_object(App) or App()
    ctx.obj = replace(app, json=app.json or json, directory=directory or app.directory)
