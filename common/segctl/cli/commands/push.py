"""`segctl plan`, `push` and `rollback`: the way from one generation to the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from segctl.cli.app import App, Verb
from segctl.cli.exits import CliError, Exit
from segctl.cli.output import line
from segctl.cli.output_plan import render_plan
from segctl.cli.output_push import Push, render_interrupted, render_step, render_summary
from segctl.cli.sources import load_sources
from segctl.cli.views import Done, Generation, Plan, Proof
from segctl.model.findings import Severity
from segctl.policy.parse import parse_policy
from segctl.policy.ports import normalize
from segctl.policy.propose import service_name
from segctl.policy.source import SourceFile

Steps = Iterator[Generation | Proof | Done]
YES = "Read `segctl plan`, then say --yes."
MAX_MESSAGE = 500

message_option = click.option("--message", "-m", default="", metavar="TEXT", help="Why, for the history.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask. Needed where nobody can answer.")
wait_option = click.option(
    "--wait",
    type=click.IntRange(1, 600),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="How long the hosts have to prove it.",
)
offline_option = click.option(
    "--allow-offline", is_flag=True, help="Hosts that are offline do not count as a failure (exit 0, not 5)."
)


@click.command(
    cls=Verb,
    changes="Nothing. The controller compiles and compares; hosts look at their connections and change nothing.",
    examples=["segctl plan policy/", "segctl plan --json policy/ | jq '.changes[] | select(.allowed)'"],
)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.pass_obj
def plan(app: App, paths: tuple[str, ...]) -> Exit:
    """Show what a policy would change on the fleet: what becomes allowed or denied, on which hosts, in which mode, and
    which live connections a push would cut.

    Connected hosts whose rules change look through their live connections and answer within 3 s. Those that did not
    are named: an agent may be too old to tell. COUNT is how many connections differ in their ports only; RULE NOW is
    what permits them today.

    A PATH is a file, a directory or - for stdin; all of them together replace the policy in force.

    Exits 1 when the policy has an error, because a push of it would be refused.
    """
    files = load_sources(paths)
    with app.connect() as controller:
        planned = controller.plan(files)
    app.result(planned, render_plan(planned, app.terminal.width, declared_services(files)))
    return Exit.FINDINGS if has_errors(planned) else Exit.OK


@click.command(
    cls=Verb,
    changes="The policy of the whole fleet. Every host enforces the new generation within moments; hosts that are\n"
    "offline take it when they are back. segctl rollback returns.",
    examples=["segctl push policy/ -m 'checkout may reach the db'", "segctl push policy/ --yes --json"],
)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@message_option
@yes_option
@wait_option
@offline_option
@click.option("--force", is_flag=True, help="Make a new generation even when the policy is the one in force.")
@click.pass_obj
def push(
    app: App, paths: tuple[str, ...], message: str, yes: bool, wait: int, allow_offline: bool, force: bool
) -> Exit:
    """Plan, ask, store a policy as the next generation, and wait until the kernel of every host has proved it.

    The plan with the live connections that it would cut is shown first, as by segctl plan. The push is refused when the
    policy has an error or breaks one of its own tests, and when somebody else pushed since the plan was made: then
    nothing has changed.

    Exits 1 when refused or not confirmed, 5 when it was stored but some host refused it, is released or offline, or did
    not prove it in time.
    """
    _bounded(message)
    files = load_sources(paths)
    with app.connect() as controller:
        planned = controller.plan(files)
        _show_plan(app, planned, files)
        if not force and _is_in_force(planned, controller.history(1)):
            app.item(
                "unchanged", planned, [line(f"Generation {planned.base_generation} is this policy: nothing to push.")]
            )
            return Exit.OK
        if not yes and not app.terminal.confirm("Push this policy?", f"{YES} Nothing was pushed."):
            raise CliError("not confirmed: nothing was pushed")
        return _watch(app, controller.push(files, message, planned, wait), allow_offline)


@click.command(
    cls=Verb,
    changes="The policy of the whole fleet, like a push. The history goes on: a rollback is a new generation.",
    examples=["segctl rollback", "segctl rollback 12 -m 'the new web tier breaks checkout'", "segctl rollback --yes"],
)
@click.argument("generation", required=False, type=click.IntRange(min=1))
@message_option
@yes_option
@wait_option
@offline_option
@click.pass_obj
def rollback(app: App, generation: int | None, message: str, yes: bool, wait: int, allow_offline: bool) -> Exit:
    """Put GENERATION in force again (by default the one before the current one), and wait for the proof of every host.

    What it would change is shown first, as by segctl plan. When the current one is itself a rollback, name the
    GENERATION: the one before it is what was rolled back.

    Exits like segctl push.
    """
    _bounded(message)
    with app.connect() as controller:
        wanted = controller.generation(generation or _previous(controller.history(2)))
        if wanted.active:
            raise CliError(f"generation {wanted.number} is the one in force", "segctl history shows the others.")
        files = [SourceFile(f.name, f.content.encode()) for f in wanted.files]
        planned = controller.plan(files)
        _show_plan(app, planned, files)
        question = f"Return to generation {wanted.number} of {wanted.author} ({wanted.message or 'no message'})?"
        if not yes and not app.terminal.confirm(question, "Say --yes. Nothing was changed."):
            raise CliError("not confirmed: nothing was changed")
        return _watch(app, controller.rollback(wanted.number, message, planned, wait), allow_offline)


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
    return any(g.active and g.number == planned.base_generation and g.digest == planned.digest for g in newest)


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
        mend = f"Generation {number} is stored and active; the hosts go on by themselves. segctl status shows them."
        raise CliError(error.message, mend, error.exit_code) from error
    if not app.json:
        app.terminal.show(render_summary(push))
    return Exit.OK if push.complete(allow_offline) else Exit.PARTIAL


def _kind(step: Generation | Proof | Done) -> str:
    return {Generation: "stored", Proof: "host", Done: "done"}[type(step)]


def _previous(newest: tuple[Generation, ...]) -> int:
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
