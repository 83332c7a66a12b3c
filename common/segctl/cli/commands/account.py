"""`segctl whoami` and `segctl audit`."""

from __future__ import annotations

import click

from segctl.cli.app import App, Verb
from segctl.cli.output_lists import render_audit, render_whoami


@click.command(
    cls=Verb,
    changes="Nothing on the fleet. While its CA is rotated, ca.pem of your configuration comes to hold both CAs.",
    examples=["segctl whoami", "segctl --config ~/other-fleet whoami"],
)
@click.pass_obj
def whoami(app: App) -> None:
    """Show who you are to the controller: your name, your role (viewer, editor, admin), the fleet, and when your
    certificate ends."""
    with app.connect() as controller:
        who = controller.whoami()
    app.result(who, render_whoami(who, app.clock()))


@click.command(cls=Verb, changes="Nothing.", examples=["segctl audit", "segctl audit --limit 1000 --json"])
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many, newest first.")
@click.pass_obj
def audit(app: App, limit: int) -> None:
    """Show who changed what, and when. The log only grows; nothing in it can be changed."""
    with app.connect() as controller:
        entries = controller.audit(limit)
    app.result(entries, render_audit(entries, app.terminal.width))
