"""`segctl status`."""

from __future__ import annotations

import click

from segctl.cli.app import App, Verb
from segctl.cli.exits import Exit
from segctl.cli.output_status import render_status


@click.command(
    cls=Verb,
    changes="Nothing.",
    examples=["segctl status", "segctl status --exit-code || page-somebody", "watch segctl status"],
)
@click.option("--exit-code", is_flag=True, help="Exit 1 unless every host is in sync and has no problem.")
@click.pass_obj
def status(app: App, exit_code: bool) -> Exit:
    """Show the fleet: which generation is in force, which hosts hold it in their kernel, and what is wrong.

    KERNEL is the generation that was read back from the kernel of a host, not the one that was sent. Every problem says
    what to do about it. Hosts that told of tampering within a day are named; that alone does not change the exit code.
    """
    with app.connect() as controller:
        now = controller.status()
    app.result(now, render_status(now, app.clock(), app.terminal.width))
    well = all(h.state == "in-sync" and not h.problems for h in now.hosts)
    return Exit.FINDINGS if exit_code and not well else Exit.OK
