"""`segctl map`."""

from __future__ import annotations

from datetime import datetime, timedelta

import click

from segctl.cli.app import App, Verb
from segctl.cli.commands.flows import since_option, until_option
from segctl.cli.commands.options import Ends, Moment, Service
from segctl.cli.mapsearch import DETAILS, EndWanted, MapWanted
from segctl.cli.output import line
from segctl.cli.output_map import dot_lines, render_map


@click.command(
    "map",
    cls=Verb,
    changes="Nothing.",
    examples=[
        "segctl map",
        "segctl map --by app,env --since 7d",
        "segctl map --from env=prod,role=web --to outside --detail network",
        "segctl map --from role=web --to role=db --port tcp/5432 --detail process",
        "segctl map --at 2027-05-01T12:00 --since 2h",
        "segctl map --by app --dot | dot -Tsvg > map.svg",
        "segctl map --json | jq '.edges[] | select(.verdict != \"allowed\")'",
    ],
)
@click.option("--by", default="", metavar="KEYS", help="Tell hosts apart by these tags only, such as app,env.")
@click.option(
    "--from",
    "source",
    type=Ends(),
    metavar="END",
    help="Only edges from there: env=prod,role=web; app= is hosts without that tag.",
)
@click.option("--to", "destination", type=Ends(), metavar="END", help="Only edges to there: peer:office.")
@click.option(
    "--port", "service", type=Service(), metavar="PORT", help="Only this port: 5432, tcp/5432, or all of udp."
)
@click.option("--detail", type=click.Choice(("", *DETAILS)), default="", metavar="WHAT", help=f"{', '.join(DETAILS)}.")
@since_option
@until_option
@click.option("--at", type=Moment(), metavar="TIME", help="As of then: 2027-05-01T12:00 (UTC), or 2d for two days ago.")
@click.option("--generation", type=click.IntRange(1), metavar="N", help="Judge by the policy of this generation.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True, help="At most so many edges.")
@click.option("--dot", is_flag=True, help="Print a graph for Graphviz (https://graphviz.org).")
@click.pass_obj
def map(  # noqa: A001 - the command's name
    app: App,
    by: str,
    source: EndWanted | None,
    destination: EndWanted | None,
    service: tuple[str, int | None] | None,
    detail: str,
    since: int,
    until: int | None,
    at: datetime | int | None,
    generation: int | None,
    limit: int,
    dot: bool,
) -> None:
    """Draw who talks to whom, and what the policy says of it: from hosts with the same tags to other ones, service by
    service, most flows first. A destination is told by the tags in which it differs, where it has the same keys.

    POLICY is what the policy says of both ends together, the strictest first: "allowed" by which rule; "no rule", which
    the mode observe lets pass; "denied, only observed", where what denies it is a boundary and the mode is observe;
    "would be denied", which the mode test does; "denied". Where that is not so of all flows, it says of how many.
    "refused" are connections that were denied; "escaped" passed although the policy denies them, "misdropped" did not
    pass although it allows them. Where both agree, "permitted" passed, by a rule or by the mode, and "rejected" did
    not. That is compared from a minute after the push on.

    Tags are those that the hosts carried at the time of the flow. Where both ends of a connection told of it, the end
    that saw more counts. Addresses that no enrolled host held are those of a peer of the policy, the one with the
    longest prefix, or "outside".

    An END is tags, host:NAME, workload:NAME, process:NAME, outside, peer:NAME or a network, with commas between them.
    --detail goes into an edge: into /24 and /48 networks, hosts, workloads or processes; segctl flows has single flows.

    With --at, the times of --since and --until are before that moment, and the policy is the one in force then.
    """
    if dot and app.json:
        raise click.UsageError("--dot and --json are two formats: choose one.")
    if until is not None and until >= since:
        raise click.UsageError("--until ends before --since begins: --since 2d --until 1d is the day before this one.")
    now = app.clock()
    moment = now - timedelta(seconds=at) if isinstance(at, int) else at
    end = moment or now
    protocol, port = service or ("", None)
    wanted = MapWanted(
        limit,
        end - timedelta(seconds=since),
        moment if until is None else end - timedelta(seconds=until),
        by=tuple(key for key in by.replace(" ", "").split(",") if key),
        at=moment,
        generation=generation or 0,
        source=source,
        destination=destination,
        protocol=protocol,
        port=port,
        detail=detail,
    )
    with app.connect() as controller:
        found = controller.flow_map(wanted)
    if dot:
        for text in dot_lines(found):
            app.terminal.write(text)
        return
    app.result(found, render_map(found, end, app.terminal.width))
    if not found.edges:
        app.remark([line("No host has told of a flow in that time.")])
    elif found.more:
        app.remark([line("There are more edges, with fewer flows. --limit shows them; --by KEY,KEY makes fewer.")])
