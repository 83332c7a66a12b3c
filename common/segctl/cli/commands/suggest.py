"""`segctl suggest` and `segctl review`: rules for what was observed, and what people make of them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from segctl.cli.app import App, Verb
from segctl.cli.client import Controller
from segctl.cli.commands.check import offline_findings
from segctl.cli.commands.options import Duration, QuestionGroup
from segctl.cli.exits import CliError, Exit
from segctl.cli.output import bad, good, line
from segctl.cli.output_suggest import (
    render_decisions,
    render_left_out,
    render_review,
    render_suggestion,
    render_summary,
)
from segctl.cli.sources import load_sources
from segctl.cli.suggested_file import adding, addition_text, file_name, parse_addition, without_known
from segctl.cli.views_suggest import Decided, Suggestion, Suggestions
from segctl.model.findings import Severity
from segctl.policy.source import SourceFile

since_option = click.option(
    "--since", type=Duration(), default="28d", show_default=True, metavar="TIME", help="Look at the last 8h, 28d, 56d."
)
until_option = click.option("--until", type=Duration(), metavar="TIME", help="Nothing of the last 2h, 7d.")
into_option = click.option(
    "--into", default="policy", show_default=True, metavar="DIRECTORY", help="Where the new file of the diff lies."
)
policy_argument = click.argument("paths", metavar="[POLICY...]", nargs=-1, type=click.Path())


@click.command(
    cls=Verb,
    changes="Nothing: it prints a policy file.",
    examples=[
        "segctl suggest > policy/suggested.yaml && segctl check policy/",
        "segctl suggest --since 8h",
        "segctl suggest --left-out",
        "segctl suggest --json | jq '.suggestions[] | select(.confidence == \"high\") | .rule'",
    ],
)
@since_option
@until_option
@click.option("--left-out", is_flag=True, help="Show the flows that lead to no rule, and why, instead.")
@click.pass_obj
def suggest(app: App, since: int, until: int | None, left_out: bool) -> Exit:
    """Suggest few, general rules for the flows that no rule permits, as a policy file that is ready to paste.

    Rules are by tags and processes, never by host, and `within` what repeats across applications or environments. Above
    each rule stand its id, how sure it is, and what it would permit that was never seen; segctl review shows more.
    Left out, with the reason: scans, what was seen once, what one host of several does alone, what was denied, and what
    crosses a boundary. docs/suggestions.md says how it is judged. The owner of a rule is taken from rules that exist,
    else it is you.
    """
    with app.connect() as controller:
        found = _asked(app, controller, since, until)
    if left_out:
        app.result(found.left_out, render_left_out(found.left_out, app.terminal.width))
    else:
        app.result(found, [line(text) for text in found.policy.splitlines()])
        app.remark(render_summary(found))
    return Exit.OK


@click.group(
    cls=QuestionGroup,
    invoke_without_command=True,
    changes="Nothing. The verbs below it record what you decide, in the audit log too; policies change by git alone.",
    examples=[
        "segctl review",
        "segctl review show 3f9a12bc04d1",
        "segctl review accept 3f9a12bc04d1 policy/ | git apply",
        "segctl review --decided",
    ],
)
@since_option
@until_option
@click.option("--decided", is_flag=True, help="List what was decided so far instead.")
@click.pass_context
def review(context: click.Context, since: int, until: int | None, decided: bool) -> None:
    """Review suggested rules: list them, look at one, accept, edit or reject it.

    NEVER SEEN counts pairs of tag groups that the rule would permit and that were not seen, of all that it permits.
    """
    app = context.ensure_object(App)
    if context.invoked_subcommand:
        return
    with app.connect() as controller:
        if decided:
            decisions = controller.decisions()
            app.result(decisions, render_decisions(decisions, app.clock(), app.terminal.width))
            return
        found = _asked(app, controller, since, until)
    app.result(found, render_review(found, app.clock(), app.terminal.width))
    app.remark(render_summary(found))


@review.command(
    cls=Verb,
    short_help="Show one suggestion with all that speaks for and against it.",
    changes="Nothing.",
    examples=["segctl review show 3f9a12bc04d1"],
)
@click.argument("identifier", metavar="ID")
@since_option
@until_option
@click.pass_obj
def show(app: App, identifier: str, since: int, until: int | None) -> None:
    """Show the flows that a suggested rule explains, what else it would permit, and its text."""
    with app.connect() as controller:
        found = _asked(app, controller, since, until)
    one = _chosen(found, identifier)
    app.result(one, render_suggestion(one, found.unit, app.clock(), app.terminal.width))


@review.command(
    cls=Verb,
    short_help="Accept a suggestion: prints the change of the policy for git.",
    changes="Your decision is kept. The policy changes when you apply and push the diff.",
    examples=[
        "segctl review accept 3f9a12bc04d1 policy/ | git apply",
        "segctl review accept 3f9a12bc04d1 --into rules",
    ],
)
@click.argument("identifier", metavar="ID")
@policy_argument
@into_option
@since_option
@until_option
@click.pass_obj
def accept(app: App, identifier: str, paths: tuple[str, ...], into: str, since: int, until: int | None) -> Exit:
    """Accept the suggestion ID, and print a diff that adds one policy file.

    With POLICY, the files that the diff goes to, what they declare already is left out of it, and the result is checked
    before anything is decided.
    """
    with app.connect() as controller:
        one = _chosen(_asked(app, controller, since, until), identifier)
        return _take(app, controller, one, one.policy, "accepted", paths, into)


@review.command(
    cls=Verb,
    short_help="Accept a suggestion in other words.",
    changes="Your decision is kept: what you left out is not suggested again. The policy changes by the diff.",
    examples=[
        "segctl review edit 3f9a12bc04d1 policy/ | git apply",
        "segctl review edit 3f9a12bc04d1 --file narrower.yaml policy/",
    ],
)
@click.argument("identifier", metavar="ID")
@policy_argument
@click.option(
    "--file", "path", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="What is accepted instead."
)
@into_option
@click.option("--reason", default="", metavar="TEXT", help="Why not as it was.")
@since_option
@until_option
@click.pass_obj
def edit(
    app: App,
    identifier: str,
    paths: tuple[str, ...],
    path: Path | None,
    into: str,
    reason: str,
    since: int,
    until: int | None,
) -> Exit:
    """Accept the suggestion ID as you edit it, and print a diff that adds one policy file.

    On a terminal your editor opens ($EDITOR); elsewhere --file names the edited policy file.
    """
    if path is None and not app.terminal.interactive:
        raise click.UsageError("nobody can edit here: name the edited policy file with --file.")
    with app.connect() as controller:
        one = _chosen(_asked(app, controller, since, until), identifier)
        text = path.read_text() if path else click.edit(one.policy, extension=".yaml")
        if not text or text == one.policy:
            raise CliError("nothing was edited, so nothing was decided", "segctl review accept takes it as it is.")
        return _take(app, controller, one, text, "edited", paths, into, reason)


@review.command(
    cls=Verb,
    short_help="Reject a suggestion, and what it would permit.",
    changes="Nothing that the rule would permit is suggested again, alone or as a part of something larger.",
    examples=["segctl review reject 3f9a12bc04d1 --reason 'goes away with the old billing'"],
)
@click.argument("identifier", metavar="ID")
@click.option("--reason", required=True, metavar="TEXT", help="Why, for whoever meets these flows next.")
@since_option
@until_option
@click.pass_obj
def reject(app: App, identifier: str, reason: str, since: int, until: int | None) -> None:
    """Reject the suggestion ID with a reason. segctl suggest --left-out shows the flows with it."""
    with app.connect() as controller:
        one = _chosen(_asked(app, controller, since, until), identifier)
        controller.decide(one.id, "rejected", reason, one.whole)
    result = Decided(one.id, one.rule, "rejected", "")
    app.result(result, [line(bad("Rejected"), f" {one.rule}. segctl review forget {one.id} takes that back.")])


@review.command(
    cls=Verb,
    short_help="Take a decision back.",
    changes="The suggestion comes again, if its flows do.",
    examples=["segctl review forget 3f9a12bc04d1"],
)
@click.argument("identifier", metavar="ID")
@click.pass_obj
def forget(app: App, identifier: str) -> None:
    """Take back what was decided about the suggestion ID. segctl review --decided lists the decisions."""
    with app.connect() as controller:
        controller.decide(identifier, "forgotten")
    app.result(Decided(identifier, "", "forgotten", ""), [line(good("Forgotten"), f": {identifier}.")])


def _asked(app: App, controller: Controller, since: int, until: int | None) -> Suggestions:
    if until is not None and until >= since:
        raise click.UsageError("--until ends before --since begins.")
    now = app.clock()
    end = None if until is None else now - timedelta(seconds=until)
    return controller.suggestions(now - timedelta(seconds=since), end)


def _chosen(found: Suggestions, identifier: str) -> Suggestion:
    for one in found.suggestions:
        if identifier in (one.id, one.rule):
            return one
    raise CliError(
        f"there is no suggestion {identifier!r} now", "segctl review lists them; --since and --until must be the same."
    )


def _take(
    app: App,
    controller: Controller,
    one: Suggestion,
    text: str,
    verdict: str,
    paths: tuple[str, ...],
    into: str,
    reason: str = "",
) -> Exit:
    """Check it beside the files, record it, print the diff: in this order, so that nothing half is decided."""
    files = load_sources(paths) if paths else ()
    # The file that stands alone: beside files that people changed since, it can be told what they declare already.
    addition = without_known(parse_addition(one.whole if verdict == "accepted" else text, files), files)
    path = file_name(into, one.rule)
    content = addition_text(addition, _remarks(text))
    errors = (
        [f for f in offline_findings((*files, SourceFile(path, content.encode())), app) if _is_error(f)]
        if files
        else []
    )
    if errors:
        raise CliError("\n".join(map(str, errors)), "Nothing was decided. Mend it with segctl review edit.")
    controller.decide(one.id, verdict, reason, one.whole, text)
    result = Decided(one.id, one.rule, verdict, adding(path, content), path)
    app.result(result, [line(row) for row in result.diff.splitlines()])
    app.remark([line(good(verdict.capitalize()), f" {one.rule}. The policy changes when this is applied and pushed.")])
    return Exit.OK


def _remarks(text: str) -> list[str]:
    """The comments above the rule: they say what it was made from."""
    return [row.removeprefix("# ") for row in text.splitlines() if row.startswith("# ")]


def _is_error(finding: object) -> bool:
    return getattr(finding, "severity", None) is Severity.ERROR
