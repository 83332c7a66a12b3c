"""`segctl denied`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import click

from segctl.cli.app import App, Verb
from segctl.cli.commands.options import Duration
from segctl.cli.following import follow_denied
from segctl.cli.output import line, note
from segctl.cli.output_denied import Columns, heading, render_denial, render_lost
from segctl.cli.views import Denial, Lost


@click.command(
    cls=Verb,
    changes="Nothing.",
    examples=[
        "segctl denied",
        "segctl denied --follow",
        "segctl denied --host web1 --since 10m --wide --suggest",
        "segctl denied --json | jq -r .peer_address | sort | uniq -c",
    ],
)
@click.option("--follow", "-f", is_flag=True, help="Go on showing new ones until Ctrl-C.")
@click.option("--host", default="", metavar="NAME", help="Only those seen on this host.")
@click.option("--workload", default="", metavar="NAME", help="Only those of this workload.")
@click.option("--since", type=Duration(), metavar="TIME", help="Only the last 30s, 10m, 2h, 1d.")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most so many old ones."
)
@click.option("--wide", "-w", is_flag=True, help="Add executable, command line, unit, tags and times.")
@click.option("--suggest", is_flag=True, help="Add the rule that would allow it.")
@click.pass_obj
def denied(
    app: App, follow: bool, host: str, workload: str, since: int | None, limit: int, wide: bool, suggest: bool
) -> None:
    """Show denied connections: which process of which host wanted to talk to whom, and what denied it.

    One line is one process, peer and service; [v6] marks IPv6. COUNT says how often; of connections that came in it
    counts packets, retransmitted ones included. An arrow → is a connection going out, ← one that came in. "test:" is
    one that was let through and would be denied when the mode is enforce. Times are UTC.
    """
    start = app.clock() - timedelta(seconds=since) if since else None
    seen = 0
    with app.connect() as controller:
        if host:
            controller.host(host)
        denials: Iterable[Denial | Lost] = (
            follow_denied(controller, limit, host, workload, start, app.remark)
            if follow
            else controller.denied(False, limit, host, workload, start)
        )
        columns = Columns.of(app.terminal.width)
        if not follow and not app.json:
            denials = list(denials)
            shown = [d for d in denials if isinstance(d, Denial)]
            columns = Columns.fitting(shown, app.terminal.width)
        try:
            for item in denials:
                if isinstance(item, Lost):
                    app.item("lost", item, render_lost(item))
                    continue
                head = [heading(columns)] if not seen else []
                seen += 1
                app.item("denial", item, [*head, *render_denial(item, columns, app.clock(), wide, suggest)])
        except KeyboardInterrupt:
            # Ctrl-C is how a person ends --follow, so it is no failure.
            if not follow:
                raise
    if not seen and not follow:
        app.remark([line("No connection was denied here, as far as the controller was told.")])
    elif seen and not wide and not follow and app.terminal.watched:
        app.remark([line(note("→ "), "--wide shows the command lines, --suggest the rules that would allow them")])
