"""`segctl explain`."""

from __future__ import annotations

import click

from segctl.cli.app import App, Verb
from segctl.cli.exits import Exit
from segctl.cli.output_explain import render_explanation


@click.command(
    cls=Verb,
    changes="Nothing. With --live the agents read their own table; no packet is sent.",
    examples=[
        "segctl explain web1/shop-web db1/shop-db postgres",
        "segctl explain web1 db1 tcp/5432 --no-live",
        "segctl explain 203.0.113.7 bastion1 ssh --wide",
    ],
)
@click.argument("source")
@click.argument("destination")
@click.argument("service")
@click.option("--live/--no-live", default=True, show_default=True, help="Ask the kernels of the hosts too.")
@click.option("--wide", "-w", is_flag=True, help="Add the way through the chains of each kernel.")
@click.pass_obj
def explain(app: App, source: str, destination: str, service: str, live: bool, wide: bool) -> Exit:
    """Say whether SOURCE may talk to DESTINATION, by which rule of which file, and what the kernels of both ends do.

    An end is HOST (its processes that no workload names), HOST/WORKLOAD, an address or a peer. SERVICE is a declared
    name or a port: tcp/5432, udp/53, icmp/8. When it is denied, the nearest rule and one that would allow it are shown.

    Exits 1 when a kernel does not do what the policy says; a denied connection that is denied exits 0.
    """
    with app.connect() as controller:
        explanation = controller.explain(source, destination, service, live)
    app.result(explanation, render_explanation(explanation, app.terminal.width, wide))
    return Exit.FINDINGS if explanation.differs else Exit.OK
