"""`segctl enforce`: a selector's way from observe over test to enforce, and back."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from segctl.cli.app import App, Verb
from segctl.cli.commands.options import Duration, SelectorType
from segctl.cli.exits import CliError, Exit
from segctl.cli.output import count, line, warn
from segctl.cli.output_enforce import render_change, render_next, render_readiness, render_ready, selection
from segctl.cli.rewriting import patch, replace_files
from segctl.cli.sources import load_sources
from segctl.cli.views_life import PhaseChange, Readiness
from segctl.model.policy import Mode, Selector
from segctl.policy.life.past import mode_of
from segctl.policy.life.phases import PhaseError, phase_after, phase_before, with_mode
from segctl.policy.parse import parse_policy
from segctl.policy.source import SourceFile

if TYPE_CHECKING:
    from segctl.cli.client import Controller

MOST_REASON = 300


@click.command(
    cls=Verb,
    changes="Nothing on the fleet: segctl push does. With --write the mode in the policy files, nothing else in them.",
    examples=[
        "segctl enforce --ready",
        "segctl enforce app=shop,env=prod",
        "segctl enforce app=shop,env=prod policy/ --write",
        "segctl enforce workload=shop-db policy/ --write --anyway 'the backup ran by hand'",
        "segctl enforce env=prod policy/ --back --write",
        "segctl enforce env=prod policy/ | git apply",
        "segctl enforce --ready --json | jq -r '.selectors[] | select(.ready) | .select.tags'",
    ],
)
@click.argument("selector", required=False, type=SelectorType())
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path())
@click.option("--ready", is_flag=True, help="List the entries of modes that do not enforce yet, and what keeps them.")
@click.option("--back", is_flag=True, help="To the phase before: from enforce to test, from test to observe.")
@click.option("--write", is_flag=True, help="Apply the change to the files.")
@click.option("--anyway", metavar="REASON", help="To enforce although it is not ready; for the history.")
@click.option(
    "--since", type=Duration(), metavar="TIME", help="Only flows of the last 12h, 3d; never before the phase."
)
@click.option(
    "--days", type=click.IntRange(0, 3650), metavar="N", help="Days of flows it must have shown.  [default: 7]"
)
@click.pass_obj
def enforce(
    app: App,
    selector: Selector | None,
    paths: tuple[str, ...],
    ready: bool,
    back: bool,
    write: bool,
    anyway: str | None,
    since: int | None,
    days: int | None,
) -> Exit:
    """Move a SELECTOR to its next phase, from observe over test to enforce: show whether it is ready, and the change of
    the policy files that moves it, as a patch.

    SELECTOR is tags, such as app=shop,env=prod, with workload=NAME where one is meant; everything is all of the fleet.
    A PATH is a file or a directory of the policy; without one the patch is for the files of the generation in force. An
    entry of modes for just this selector is changed; where there is none, one is added.

    Ready to enforce is what carried flows on 7 days in test (--days), of which the policy in force explains 99.5%, with
    no unexplained flow in the last day, no periodic job that has not come round since, and no test that fails. What is
    explained is what a rule or an essential permits, or a boundary denies. Going to test drops nothing, and is never
    refused.

    Exits 1 when it is not ready to enforce, and when a file cannot be changed so; nothing is written then.
    """
    if ready == (selector is not None):
        raise click.UsageError("Say --ready for a list, or the SELECTOR that is to move.")
    if ready and (back or write or anyway is not None):
        raise click.UsageError("--ready takes --since, --days and --json.")
    _check(paths, back, write, anyway)
    begin = app.clock() - timedelta(seconds=since) if since is not None else None
    if selector is None:
        return _list(app, begin, days)
    with app.connect() as controller:
        one = controller.readiness([selector], begin, days).selectors[0]
        files = load_sources(paths) if paths else _in_force(controller)
    return _move(app, selector, one, files, paths, back, write, anyway)


def _check(paths: tuple[str, ...], back: bool, write: bool, anyway: str | None) -> None:
    if write and (not paths or "-" in paths):
        raise click.UsageError("--write needs the PATH of the policy files that it changes.")
    if anyway is not None and (back or not 0 < len(anyway.strip()) <= MOST_REASON or not anyway.isprintable()):
        raise click.UsageError(f"--anyway takes a reason of at most {MOST_REASON} characters, and no --back.")


def _list(app: App, since: datetime | None, days: int | None) -> Exit:
    with app.connect() as controller:
        found = controller.readiness((), since, days)
    app.result(found, render_ready(found, app.clock(), app.terminal.width))
    if not found.selectors:
        app.remark([line("Every entry of modes enforces, or there is none. segctl enforce env=prod shows a selector.")])
    elif found.more:
        app.remark([line(warn("Not every selector, or not every flow, was looked at: there are too many."))])
    if found.lost:
        app.remark([line(warn(f"{found.lost:,} flows were counted and are in no row: nobody can say what they were."))])
    return Exit.OK


def _in_force(controller: Controller) -> tuple[SourceFile, ...]:
    active = next((g for g in controller.history(1000) if g.active), None)
    if active is None:
        raise CliError("no policy is in force yet", "segctl push brings one into force.")
    return tuple(SourceFile(f.name, f.content.encode()) for f in controller.generation(active.number).files)


def _move(
    app: App,
    selector: Selector,
    one: Readiness,
    files: tuple[SourceFile, ...],
    paths: tuple[str, ...],
    back: bool,
    write: bool,
    anyway: str | None,
) -> Exit:
    before = Mode(one.phase)
    after = phase_before(before) if back else phase_after(before)
    if not app.json and not back:
        app.terminal.tell([*render_readiness(one, app.clock(), app.terminal.width), line()])
    if after is None:
        raise CliError(f"{selection(one.select)} is in {before.value} already: there is no phase {_beyond(back)} it")
    if after is Mode.ENFORCE and not one.ready and anyway is None:
        if app.json:
            app.result(PhaseChange(one, before.value, after.value, "", ""), ())
        keeps = count(len(one.obstacles), "obstacle")
        raise CliError(
            f"{selection(one.select)} is not ready to enforce: {keeps}; nothing was changed",
            "Clear what keeps it, or say why it may go on: --anyway REASON",
        )
    message = f"{selection(one.select)}: {before.value} -> {after.value}" + (f", anyway: {anyway}" if anyway else "")
    changed = _changed(selector, files, before, after)
    written = replace_files(files, changed) if write and changed else ()
    change = PhaseChange(one, before.value, after.value, patch(files, changed), message, written)
    app.result(change, render_change(change))
    if not changed:
        app.remark([line(f"The files say {after.value} already.")])
    app.remark(render_next(change, paths))
    return Exit.OK


def _beyond(back: bool) -> str:
    return "before" if back else "after"


def _changed(selector: Selector, files: tuple[SourceFile, ...], before: Mode, after: Mode) -> dict[str, bytes]:
    """Nothing where the files say it already: somebody changed them and has not pushed yet."""
    policy = parse_policy(files).policy
    if policy is None:
        raise CliError("the policy files have errors; nothing was changed", "segctl check PATH names them.")
    says = mode_of(policy, selector)
    if says not in (before, after):
        raise CliError(
            f"the files say {says.value} for it, and in force is {before.value}; nothing was changed",
            "Push the files, or take them back, before it moves on.",
        )
    if says is after:
        return {}
    try:
        return dict(with_mode(files, policy, selector, after))
    except PhaseError as error:
        raise CliError(f"{error}; nothing was changed") from error
