"""`segctl flows`."""

from __future__ import annotations

from datetime import datetime, timedelta

import click

from segctl.cli.app import App, Verb
from segctl.cli.commands.options import Duration, Service
from segctl.cli.exits import Exit
from segctl.cli.flowsearch import FlowsWanted
from segctl.cli.output import line
from segctl.cli.output_flows import csv_lines, render_flows
from segctl.cli.output_map import render_talkers

VERDICTS = ("allowed", "would-deny", "observed", "denied")
since_option = click.option(
    "--since", type=Duration(), default="1d", show_default=True, metavar="TIME", help="Only the last 30m, 2h, 30d."
)
until_option = click.option("--until", type=Duration(), metavar="TIME", help="Nothing of the last 30m, 2h, 7d.")


def span(app: App, since: int, until: int | None) -> tuple[datetime, datetime | None]:
    """The moments that two durations before now stand for."""
    if until is not None and until >= since:
        raise click.UsageError("--until ends before --since begins: --since 2d --until 1d is the day before this one.")
    now = app.clock()
    return now - timedelta(seconds=since), None if until is None else now - timedelta(seconds=until)


@click.command(
    cls=Verb,
    changes="Nothing.",
    examples=[
        "segctl flows",
        "segctl flows --host db1 --port tcp/5432 --since 7d --limit 1000",
        "segctl flows --address 203.0.113.0/24 --verdict would-deny",
        "segctl flows --process nginx --since 30d",
        "segctl flows --process 'postgresql@*' --csv > postgresql.csv",
        "segctl flows --top --since 7d",
        "segctl flows --rule web-to-db --csv > web-to-db.csv",
        "segctl flows --json | jq -r '.flows[] | select(.rule == \"\") | .peer_address' | sort | uniq -c",
    ],
)
@click.option("--host", default="", metavar="NAME", help="Only those seen on this host.")
@click.option("--workload", default="", metavar="NAME", help="Only those of this workload.")
@click.option("--address", default="", metavar="ADDRESS", help="Only to or from this address or network, 10.0.0.0/8.")
@click.option(
    "--port", "service", type=Service(), metavar="PORT", help="Only this port: 5432, tcp/5432, or all of udp."
)
@click.option("--rule", default="", metavar="NAME", help="Only those that this rule permitted.")
@click.option(
    "--verdict", default="", type=click.Choice(("", *VERDICTS)), metavar="VERDICT", help=f"{', '.join(VERDICTS)}."
)
@click.option("--process", default="", metavar="NAME", help="Only those of this unit, program or container.")
@since_option
@until_option
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most so many lines.")
@click.option("--top", is_flag=True, help="The workloads with most bytes instead, most first; takes no filter.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with a heading; the columns are those of the JSON.")
@click.pass_obj
def flows(
    app: App,
    since: int,
    until: int | None,
    limit: int,
    top: bool,
    as_csv: bool,
    service: tuple[str, int | None] | None,
    host: str,
    workload: str,
    address: str,
    rule: str,
    verdict: str,
    process: str,
) -> Exit:
    """Search flows: which workload of which host talked to whom, and what permitted it; the newest last.

    One line sums up the flows of one workload, process, direction, peer, service and rule. A connection between two
    managed hosts has two lines, one of each end. An arrow → is a flow going out, ← one that came in. BY is the rule;
    "observe": the mode lets everything pass; "test: no rule": it would be denied when the mode is enforce;
    "earlier policy": no rule of the policy in force permits it. [v6] marks IPv6. Flows of essentials are not shown.
    Flows of the last day are known by the minute, older ones by the hour. SENT and RECEIVED are shown from 100 columns
    on, where a host counts them: that takes net.netfilter.nf_conntrack_acct=1.

    A flow is shown some seconds after it began. The peer is the host that held the address then; its workload is what
    that host told of its own end, or who listens there. It is left out where several fit.

    In parentheses is the process of what no workload names, on both ends where both told of the connection: the unit of
    systemd or the container, else the executable, else the user. It is left out where the socket was gone before
    anybody could ask. The JSON and CSV have the processes of workloads, too. --process takes a name as it is shown, a
    path, an identity of the JSON or CSV (unit:nginx.service, exe:/usr/bin/psql), or a pattern on those; it finds denied
    connections too, as --verdict denied does.
    """
    if as_csv and app.json:
        raise click.UsageError("--csv and --json are two formats: choose one.")
    filters = {"host": host, "workload": workload, "address": address, "rule": rule, "process": process}
    if top and (service or as_csv or verdict or any(filters.values())):
        raise click.UsageError("--top takes --since, --until, --limit and --json.")
    begin, end = span(app, since, until)
    if top:
        return _top(app, limit, begin, end)
    protocol, port = service or ("", None)
    with app.connect() as controller:
        found = controller.flows(
            FlowsWanted(limit, begin, end, protocol=protocol, port=port, verdict=verdict, **filters)
        )
    if as_csv:
        for text in csv_lines(found.flows):
            app.terminal.write(text)
        return Exit.OK
    app.result(found, render_flows(found, app.clock(), app.terminal.width))
    if not found.flows:
        app.remark([line("No host has told of such a flow. Agents look every few seconds, while they are connected.")])
    elif len(found.flows) == limit:
        app.remark([line(f"These are the newest {limit:,}: there may be more. --limit shows them.")])
    return Exit.OK


def _top(app: App, limit: int, since: datetime, until: datetime | None) -> Exit:
    with app.connect() as controller:
        found = controller.talkers(limit, since, until)
    app.result(found, render_talkers(found, app.clock(), app.terminal.width))
    if not found:
        app.remark([line("No host has told of a flow in that time.")])
    return Exit.OK
