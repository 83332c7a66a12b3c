"""`segctl flows`."""

from __future__ import annotations

from datetime import timedelta

import click

from segctl.cli.app import App, Verb
from segctl.cli.commands.options import Duration
from segctl.cli.output import line
from segctl.cli.output_flows import csv_lines, render_flows


@click.command(
    cls=Verb,
    changes="Nothing.",
    examples=[
        "segctl flows",
        "segctl flows --host db1 --since 7d --limit 1000",
        "segctl flows --rule web-to-db --csv > web-to-db.csv",
        "segctl flows --json | jq -r '.flows[] | select(.rule == \"\") | .peer_address' | sort | uniq -c",
    ],
)
@click.option("--host", default="", metavar="NAME", help="Only those seen on this host.")
@click.option("--workload", default="", metavar="NAME", help="Only those of this workload.")
@click.option("--rule", default="", metavar="NAME", help="Only those that this rule permitted.")
@click.option(
    "--since", type=Duration(), default="1d", show_default=True, metavar="TIME", help="Only the last 30m, 2h, 30d."
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most so many lines.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with a heading; the columns are those of the JSON.")
@click.pass_obj
def flows(app: App, host: str, workload: str, rule: str, since: int, limit: int, as_csv: bool) -> None:
    """Show accepted flows: which workload of which host talked to whom, and what permitted it; the newest last.

    One line sums up the flows of one workload, direction, peer, service and rule. A connection between two managed
    hosts has two lines, one of each end. An arrow → is a flow going out, ← one that came in. BY is the rule;
    "observe": the mode lets everything pass; "test: no rule": it would be denied when the mode is enforce;
    "earlier policy": no rule of the policy in force permits it. [v6] marks IPv6. Flows of essentials are not shown.
    --since counts by whole hours. SENT and RECEIVED are shown from 100 columns on, where a host counts them: that
    takes net.netfilter.nf_conntrack_acct=1.

    A flow is shown some seconds after it began. The workload of a peer is what the other host told of its own end;
    it is left out where that host told nothing, or where several of its workloads fit.
    """
    if as_csv and app.json:
        raise click.UsageError("--csv and --json are two formats: choose one.")
    with app.connect() as controller:
        found = controller.flows(limit, host, workload, rule, app.clock() - timedelta(seconds=since))
    if as_csv:
        for text in csv_lines(found.flows):
            app.terminal.write(text)
        return
    app.result(found, render_flows(found, app.clock(), app.terminal.width))
    if not found.flows:
        app.remark([line("No host has told of such a flow. Agents look every few seconds, while they are connected.")])
    elif len(found.flows) == limit:
        app.remark([line(f"These are the newest {limit:,}: there may be more. --limit shows them.")])
