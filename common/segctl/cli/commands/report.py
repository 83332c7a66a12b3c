"""`segctl report`: what the policy is used for."""

from __future__ import annotations

import click

from segctl.cli.app import App, Verb
from segctl.cli.commands.options import VerbGroup
from segctl.cli.output import line
from segctl.cli.output_flows import render_rule_use


@click.group(cls=VerbGroup)
def report() -> None:
    """Report which rules are used, and which never were."""


@report.command(
    "rules",
    cls=Verb,
    short_help="Show how often each rule was hit, and when last.",
    changes="Nothing.",
    examples=[
        "segctl report rules",
        "segctl report rules --unused",
        "segctl report rules --json | jq -r '.[] | select(.hits == 0) | .rule'",
    ],
)
@click.option("--rule", default="", metavar="NAME", help="Only this rule.")
@click.option("--unused", is_flag=True, help="Only rules of the policy in force that were never hit.")
@click.pass_obj
def rules(app: App, rule: str, unused: bool) -> None:
    """Show how often each rule permitted a connection, when last, and on how many hosts.

    Where both ends of a connection are managed, the end that saw more counts. Hosts count since they were enrolled; a
    host whose agent does not count yet, or was offline since, adds nothing: look at segctl status before you remove a
    rule that was never hit. Rules of earlier policies are listed while a host that hit them is enrolled.
    """
    with app.connect() as controller:
        found = controller.rule_use(rule)
    shown = tuple(use for use in found if use.in_policy and not use.hits) if unused else found
    app.result(shown, render_rule_use(found, app.clock(), app.terminal.width, unused))
    if not shown:
        app.remark([line("Every rule was hit." if found else "The policy has no rules yet.")])
