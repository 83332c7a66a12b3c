"""`segctl map`."""

from __future__ import annotations

import click

from segctl.cli.app import App, Verb
from segctl.cli.commands.flows import since_option, span, until_option
from segctl.cli.output import line
from segctl.cli.output_map import dot_lines, render_map


@click.command(
    "map",
    cls=Verb,
    changes="Nothing.",
    examples=[
        "segctl map",
        "segctl map --by app,env --since 7d",
        "segctl map --by app --dot | dot -Tsvg > map.svg",
        "segctl map --json | jq '.edges[] | select(.destination == null)'",
    ],
)
@click.option("--by", default="", metavar="KEYS", help="Tell hosts apart by these tags only, such as app,env.")
@since_option
@until_option
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True, help="At most so many edges.")
@click.option("--dot", is_flag=True, help="Print a graph for Graphviz (https://graphviz.org).")
@click.pass_obj
def map(  # noqa: A001 - the command's name
    app: App, by: str, since: int, until: int | None, limit: int, dot: bool
) -> None:
    """Draw who talks to whom: from hosts with the same tags to other ones, service by service, most flows first. A
    destination is told by the tags in which it differs, where it has the same keys.

    Tags are those that the hosts carried at the time of the flow. Where both ends of a connection told of it, the end
    that saw more counts. "outside" is every address that no enrolled host held. Of the flows, "would be denied" are
    those that the mode test let pass, "observed" those that the mode observe did.
    """
    if dot and app.json:
        raise click.UsageError("--dot and --json are two formats: choose one.")
    keys = tuple(key for key in by.replace(" ", "").split(",") if key)
    with app.connect() as controller:
        found = controller.flow_map(limit, *span(app, since, until), keys)
    if dot:
        for text in dot_lines(found):
            app.terminal.write(text)
        return
    app.result(found, render_map(found, app.clock(), app.terminal.width))
    if not found.edges:
        app.remark([line("No host has told of a flow in that time.")])
    elif found.more:
        app.remark([line("There are more edges, with fewer flows. --limit shows them; --by KEY,KEY makes fewer.")])
