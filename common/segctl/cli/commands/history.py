"""`segctl history`."""

from __future__ import annotations

from pathlib import Path

import click

from segctl.cli.app import App, Verb
from segctl.cli.export import write_files
from segctl.cli.output import good, line
from segctl.cli.output_lists import render_generation, render_history


@click.command(
    cls=Verb,
    changes="Nothing on the fleet. With --out it writes files; it replaces none.",
    examples=[
        "segctl history",
        "segctl history 12",
        "segctl history 12 --out ./as-of-12",
        "segctl history --json --limit 1",
    ],
)
@click.argument("generation", required=False, type=click.IntRange(min=1))
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many, newest first.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the policy files of GENERATION into this directory.",
)
@click.pass_obj
def history(app: App, generation: int | None, limit: int, out: Path | None) -> None:
    """List the generations, newest first, or show GENERATION with its policy files.

    The first column says which is in force (*), on trial (?) or undone (x).
    """
    if out and not generation:
        raise click.UsageError("--out needs the GENERATION whose files it writes.")
    with app.connect() as controller:
        if generation and out:
            written = write_files(controller.generation(generation).files, out)
            lines = [line(good("Wrote"), f" {path}") for path in written]
            app.result({"generation": generation, "files": [str(path) for path in written]}, lines)
        elif generation:
            shown = controller.generation(generation)
            app.result(shown, render_generation(shown))
        else:
            listed = controller.history(limit)
            app.result(listed, render_history(listed, app.clock(), app.terminal.width))
