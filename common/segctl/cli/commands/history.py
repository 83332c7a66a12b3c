"""`segctl history`."""

from __future__ import annotations

import click

from segctl.cli.app import App, Verb
from segctl.cli.output_lists import render_generation, render_history


@click.command(
    cls=Verb,
    changes="Nothing.",
    examples=["segctl history", "segctl history 12 > generation-12.yaml", "segctl history --json --limit 1"],
)
@click.argument("generation", required=False, type=click.IntRange(min=1))
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many, newest first.")
@click.pass_obj
def history(app: App, generation: int | None, limit: int) -> None:
    """List the generations, newest first (* is in force), or show GENERATION with its policy files."""
    with app.connect() as controller:
        if generation:
            shown = controller.generation(generation)
            app.result(shown, render_generation(shown))
        else:
            listed = controller.history(limit)
            app.result(listed, render_history(listed, app.clock(), app.terminal.width))
