"""`segctl plan`, `push` and `rollback`: the way from one generation to the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from segctl.cli.app import App, Verb
from segctl.cli.commands.options import Duration
from segctl.cli.commands.way import Asked, way_options
from segctl.cli.exits import CliError, Exit
from segctl.cli.output import good, line
from segctl.cli.output_enforce import selection
from segctl.cli.output_plan import render_plan
from segctl.cli.output_push import Push, Step, render_interrupted, render_step, render_summary
from segctl.cli.sources import load_sources
from segctl.cli.unready import find_unready
from segctl.cli.views import Done, Generation, Phase, Plan, Proof
from segctl.model.findings import Severity
from segctl.policy.parse import parse_policy
from segctl.policy.ports import normalize
from segctl.policy.propose import service_name
from segctl.policy.source import SourceFile

if TYPE_CHECKING:
    from segctl.cli.client import Controller

Steps = Iterator[Step]
YES = "Read `segctl plan`, then say --yes."
MAX_MESSAGE = 500
IMPACT_SHOWN = 20
"""Kinds of flows that are named."""
LOOKED_AT = 1000
"""Generations, for the one before the current one: those that were undone do not count."""

message_option = click.option("--message", "-m", default="", metavar="TEXT", help="Why, for the history.")
ready_option = click.option(
    "--require-ready", is_flag=True, help="Refuse what would enforce a workload that is not ready."
)
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask. Needed where nobody can answer.")


@click.command(
    cls=Verb,
    changes="Nothing. The controller compiles and compares; hosts look at their connections and change nothing.",
    examples=[
        "segctl plan policy/",
        "segctl plan --since 7d policy/",
        "segctl plan --replay 30d policy/",
        "segctl plan --json policy/ | jq '.changes[] | select(.allowed)'",
    ],
)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.option("--since", type=Duration(), metavar="TIME", help="Judge the flows of the last 2h, 7d. Default: 1d.")
@click.option(
    "--replay", type=Duration(), metavar="TIME", help="The same, and count by the hour or day: what if over the past."
)
@ready_option
@click.pass_obj
def plan(app: App, paths: tuple[str, ...], since: int | None, replay: int | None, require_ready: bool) -> Exit:
    """Show what a policy would change on the fleet: what becomes allowed or denied, on which hosts, in which mode, and
    which live connections a push would cut.

    Of the flows of the last day, or of --since, those that the policy would block are judged and counted, each end by
    itself; for each kind a host is named as an example. They were accepted, whatever permitted them. So are those that
    it comes to allow, denied connections among them. NOW is what the policy in force says of them: the rule, or why
    none; OWNER is of that rule, or of the one that would permit them. --replay tells hour by hour or day by day what it
    would have done.

    Connected hosts whose rules change look through their live connections and answer within 3 s. Those that did not
    are named: an agent may be too old to tell. COUNT is how many connections differ in their ports only; RULE NOW is
    what permits them today.

    What would come to enforce and is not ready, as segctl enforce judges, is named with what keeps it.

    A PATH is a file, a directory or - for stdin; all of them together replace the policy in force.

    Exits 1 when the policy has an error, because a push of it would be refused; with --require-ready also when
    something is not ready.
    """
    if since is not None and replay is not None:
        raise click.UsageError("--since and --replay both say how far back: choose one.")
    files = load_sources(paths)
    with app.connect() as controller:
        planned = _planned(controller, files)
        window = replay or since
        if window and not has_errors(planned):
            begin = app.clock() - timedelta(seconds=window)
            span = _span(window) if replay else 0
            planned = replace(planned, impact=controller.impact(files, IMPACT_SHOWN, begin, span))
    app.result(planned, render_plan(planned, app.terminal.width, declared_services(files)))
    refused = has_errors(planned) or (require_ready and planned.unready)
    return Exit.FINDINGS if refused else Exit.OK


def _span(window: int) -> int:
    """Seconds of one line of a replay: few enough lines to read."""
    return next((span for span in (60, 600, 3600) if window <= 48 * span), 86_400)


@click.command(
    cls=Verb,
    changes="The policy of the whole fleet, or nothing: a push that fails on one host is undone on all. Hosts that\n"
    "are offline take it when they are back. segctl rollback returns.",
    examples=[
        "segctl push policy/ -m 'checkout may reach the db'",
        "segctl push policy/ --canary env=dev --waves 4 --pause 300",
        "segctl push policy/ --yes --require-ready",
        "segctl push policy/ --yes --json",
    ],
)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@message_option
@yes_option
@way_options
@click.option("--force", is_flag=True, help="Make a new generation even when the policy is the one in force.")
@ready_option
@click.pass_obj
def push(
    app: App, paths: tuple[str, ...], message: str, yes: bool, force: bool, require_ready: bool, asked: Asked
) -> Exit:
    """Plan, ask, and bring a policy into force as the next generation: confirmed on all hosts, or undone on all.

    The plan with the live connections that it would cut is shown first, as by segctl plan, and what would come to
    enforce without being ready. The push is refused when the policy has an error or breaks one of its own tests, and
    when somebody else pushed since the plan was made, and with --require-ready for what is not ready: then nothing has
    changed.

    The kernel of every host first tries whether it would take it, while nothing changes. Then it is in force on trial,
    wave by wave, and each host proves it from its kernel. It is confirmed when all did and kept it through --watch.
    Otherwise all return to the generation before: when a host refuses it, does not come back to the controller, or
    denies a flow that passed before although no rule was taken away (a host that now enforces, and lacks a rule). A
    host that cannot reach its controller returns by itself. Hosts that are offline take what is confirmed when they are
    back.

    Exits 1 when refused, undone, or not confirmed by you; 5 when it is confirmed but some host is released or offline.
    """
    _bounded(message)
    files = load_sources(paths)
    with app.connect() as controller:
        planned = _planned(controller, files)
        _show_plan(app, planned, files)
        if require_ready and planned.unready:
            names = "; ".join(selection(one.select) for one in planned.unready)
            mend = "Clear what keeps it, named above, or push without --require-ready."
            raise CliError(f"refused: not ready to enforce: {names}. Nothing was pushed", mend)
        if not force and _is_in_force(planned, controller.history(1)):
            app.item(
                "unchanged", planned, [line(f"Generation {planned.base_generation} is this policy: nothing to push.")]
            )
            return Exit.OK
        if not yes and not app.terminal.confirm("Push this policy?", f"{YES} Nothing was pushed."):
            raise CliError("not confirmed: nothing was pushed")
        steps = controller.push(files, message, planned, asked.way(planned))
        return _watch(app, steps, asked.allow_offline)


@click.command(
    cls=Verb,
    changes="The policy of the whole fleet, like a push. The history goes on: a rollback is a new generation.",
    examples=["segctl rollback", "segctl rollback 12 -m 'the new web tier breaks checkout'", "segctl rollback --yes"],
)
@click.argument("generation", required=False, type=click.IntRange(min=1))
@message_option
@yes_option
@way_options
@click.pass_obj
def rollback(app: App, generation: int | None, message: str, yes: bool, asked: Asked) -> Exit:
    """Put GENERATION in force again (by default the one before the current one), as a push does. While a push is on
    trial and no GENERATION is named, that push is ended and undone instead.

    What it would change is shown first, as by segctl plan. When the current one is itself a rollback, name the
    GENERATION: the one before it is what was rolled back.

    Exits like segctl push.
    """
    _bounded(message)
    with app.connect() as controller:
        trial = controller.status().trial if generation is None else None
        if trial is not None:
            return _end(app, controller, trial.generation, yes=yes)
        wanted = controller.generation(generation or _previous(controller.history(LOOKED_AT)))
        if wanted.active:
            raise CliError(f"generation {wanted.number} is the one in force", "segctl history shows the others.")
        files = [SourceFile(f.name, f.content.encode()) for f in wanted.files]
        planned = controller.plan(files)
        _show_plan(app, planned, files)
        question = f"Return to generation {wanted.number} of {wanted.author} ({wanted.message or 'no message'})?"
        if not yes and not app.terminal.confirm(question, "Say --yes. Nothing was changed."):
            raise CliError("not confirmed: nothing was changed")
        steps = controller.rollback(wanted.number, message, planned, asked.way(planned))
        return _watch(app, steps, asked.allow_offline)


def _end(app: App, controller: Controller, tried: Generation, *, yes: bool) -> Exit:
    """A push that is undone as was asked for is no failure."""
    question = f"End the push of generation {tried.number} by {tried.author}, which is on trial?"
    if not yes and not app.terminal.confirm(question, "Say --yes. Nothing was changed."):
        raise CliError("not confirmed: nothing was changed")
    done = None
    for step in controller.end_trial(tried.number):
        app.item(_kind(step), step, render_step(step))
        done = step if isinstance(step, Done) else done
    if done is not None and done.undone:
        if not app.json:
            app.terminal.show([line(good("Undone."), f" Generation {tried.number} is not in force: {done.why}.")])
        return Exit.OK
    raise CliError(
        f"generation {tried.number} was confirmed before it could be ended", "segctl rollback again returns from it."
    )


def _planned(controller: Controller, files: Sequence[SourceFile]) -> Plan:
    """With what is not ready. Not for a rollback: what it returns to was in force."""
    planned = controller.plan(files)
    return planned if has_errors(planned) else replace(planned, unready=find_unready(controller, planned, files))


def has_errors(planned: Plan) -> bool:
    return any(f.severity is Severity.ERROR for f in planned.findings)


def declared_services(files: Sequence[SourceFile]) -> dict[str, frozenset[str]]:
    """The services of several ports and what a plan calls each of them; none of a policy that cannot be read."""
    policy = parse_policy(files).policy
    if policy is None:
        return {}
    ports = {s.name: normalize(s.ports) for s in policy.services.values()}
    return {n: frozenset(service_name(policy, p) for p in found) for n, found in ports.items() if len(found) > 1}


def _show_plan(app: App, planned: Plan, files: Sequence[SourceFile]) -> None:
    """Show it before anything happens, and stop here when a push of it would be refused."""
    app.item("plan", planned, [*render_plan(planned, app.terminal.width, declared_services(files)), line()])
    if has_errors(planned):
        raise CliError("refused: the policy has errors. Nothing was pushed", "Mend what is listed, then: segctl check")


def _is_in_force(planned: Plan, newest: tuple[Generation, ...]) -> bool:
    """Not where hosts hold a newer generation than a controller that was restored: they take the next one only."""
    return not planned.behind and any(
        g.active and g.number == planned.base_generation and g.digest == planned.digest for g in newest
    )


def _watch(app: App, steps: Steps, allow_offline: bool) -> Exit:
    push = Push()
    try:
        for step in steps:
            push = push.after(step)
            app.item(_kind(step), step, render_step(step))
    except KeyboardInterrupt:
        app.terminal.tell(render_interrupted(push))
        return Exit.INTERRUPTED
    except CliError as error:
        if push.generation is None:
            raise
        number = push.generation.number
        mend = f"The push of generation {number} goes on without us, unless the controller died: segctl status tells."
        raise CliError(error.message, mend, error.exit_code) from error
    if not app.json:
        app.terminal.show(render_summary(push))
    if push.done is not None and push.done.undone:
        return Exit.FINDINGS
    return Exit.OK if push.complete(allow_offline) else Exit.PARTIAL


def _kind(step: Step) -> str:
    return {Generation: "stored", Proof: "host", Phase: "phase", Done: "done"}[type(step)]


def _previous(newest: tuple[Generation, ...]) -> int:
    newest = tuple(g for g in newest if g.state not in ("undone", "trial"))
    if len(newest) < 2:
        raise CliError("there is no generation before the current one", "segctl history shows what there is.")
    current = newest[0]
    if current.rollback_of:
        raise CliError(
            f"generation {current.number} is itself a rollback, to {current.rollback_of}: name the GENERATION you want",
            "segctl history shows what there is; then: segctl rollback GENERATION",
        )
    return newest[1].number


def _bounded(message: str) -> None:
    if len(message) > MAX_MESSAGE:
        raise CliError(f"the message is longer than {MAX_MESSAGE} characters", "Say it shorter.", Exit.USAGE)
