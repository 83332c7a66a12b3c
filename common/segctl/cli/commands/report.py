"""`segctl report`: what the policy is used for."""

from __future__ import annotations

import click

from segctl.cli.app import App, Verb
from segctl.cli.commands.options import Days, VerbGroup
from segctl.cli.exits import Exit
from segctl.cli.output import line, warn
from segctl.cli.output_flows import render_rule_use
from segctl.cli.output_rules import render_findings


@click.group(cls=VerbGroup)
def report() -> None:
    """Report which rules are used, and which need a look."""


@report.command(
    "rules",
    cls=Verb,
    short_help="Show how often each rule was hit, and what is wrong with it.",
    changes="Nothing.",
    examples=[
        "segctl report rules",
        "segctl report rules --unused",
        "segctl report rules --findings --stale 90d",
        "segctl report rules --rule web-to-db",
        "segctl report rules --json | jq -r '.[] | select(.hits == 0) | .rule'",
        "segctl report rules --json | jq -r '.[] | .rule as $r | .findings[] | [$r, .kind, .why] | @tsv'",
    ],
)
@click.option("--rule", default="", metavar="NAME", help="Only this rule, with the narrower one where it is too broad.")
@click.option("--unused", is_flag=True, help="Only rules of the policy in force that were never hit.")
@click.option("--findings", is_flag=True, help="Only what is wrong, and only rules with something wrong.")
@click.option(
    "--stale", type=Days(), default="30d", show_default=True, metavar="TIME", help="Least silence that counts."
)
@click.option(
    "--soon", type=Days(), default="30d", show_default=True, metavar="TIME", help="How far ahead dates count."
)
@click.option("--exit-code", is_flag=True, help="Exit 1 when something is wrong with any of the rules shown.")
@click.pass_obj
def rules(app: App, rule: str, unused: bool, findings: bool, stale: int, soon: int, exit_code: bool) -> Exit:
    """Show how often each rule permitted a connection, when last, and on how many hosts; and what is wrong with rules,
    each with its mend.

    Where both ends of a connection are managed, the end that saw more counts. Hosts count since they were enrolled; a
    host whose agent does not count yet, or was offline since, adds nothing: look at segctl status before you remove a
    rule that was never hit. Rules of earlier policies are listed while a host that hit them is enrolled.

    A rule is stale after --stale without a hit, and after one and a half times as long as it usually is silent: one
    that is hit monthly is not stale after 40 days. It is too broad where a narrower one would permit what flows of the
    last 30 days used, and no more than half of what it permits. What is younger than a week is not judged by its use.

    Exits 0, also when something is wrong, unless --exit-code is given.
    """
    if unused and findings:
        raise click.UsageError("--unused and --findings are two lists: choose one.")
    with app.connect() as controller:
        found, more = controller.rules(rule, stale, soon)
    shown = found
    if unused:
        shown = tuple(use for use in found if use.in_policy and not use.hits)
    elif findings:
        shown = tuple(use for use in found if use.findings)
    lines = [] if findings else render_rule_use(found, app.clock(), app.terminal.width, unused)
    if not unused:
        wrong = render_findings(found, app.terminal.width, with_narrower=bool(rule))
        lines += [line(), *wrong] if lines and wrong else wrong
    app.result(shown, lines)
    if not shown:
        app.remark([line(_nothing(bool(found), findings))])
    elif not rule and any(one.narrower for use in shown for one in use.findings):
        app.remark([line("segctl report rules --rule NAME shows the narrower rule.")])
    if more and not unused:
        app.remark([line(warn("Rules were used for too much to look at: none is called too broad. Try --rule NAME."))])
    return Exit.FINDINGS if exit_code and any(use.findings for use in shown) else Exit.OK


def _nothing(known: bool, findings: bool) -> str:
    if not known:
        return "The policy has no rules yet."
    return "Nothing is wrong with any rule." if findings else "Every rule was hit."
