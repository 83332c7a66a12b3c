"""`segctl status`."""

from __future__ import annotations

import click

from segctl.cli.app import App, Verb
from segctl.cli.exits import Exit
from segctl.cli.output_status import render_status


@click.command(
    cls=Verb,
    changes="Nothing on the fleet. While its CA is rotated, ca.pem of your configuration comes to hold both CAs.",
    examples=["segctl status", "segctl status --exit-code || page-somebody", "watch segctl status"],
)
@click.option("--all", "everything", is_flag=True, help="Every host and problem, also where a terminal would scroll.")
@click.option("--exit-code", is_flag=True, help="Exit 1 unless every host is in sync and has no problem.")
@click.pass_obj
def status(app: App, everything: bool, exit_code: bool) -> Exit:
    """Show the fleet: whether all is well; if not, what is wrong and the next step; then who is connected, which
    generation is in which kernel, and the effective modes.

    On a terminal a large fleet's table is only of hosts that need somebody, with the sums of the rest. KERNEL is the
    generation that was read back from the kernel of a host, not the one that was sent. Hosts that told of tampering
    within a day are named; that alone does not change the exit code.
    """
    with app.connect() as controller:
        now = controller.status()
    app.result(now, render_status(now, app.clock(), app.terminal.width, everything or not app.terminal.watched))
    well = all(h.state == "in-sync" and not h.problems for h in now.hosts)
    return Exit.FINDINGS if exit_code and not well else Exit.OK
