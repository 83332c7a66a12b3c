"""`segctl host` and `segctl tag`: the enrolled hosts and their tags."""

from __future__ import annotations

import click

from segctl.cli.app import App, Verb
from segctl.cli.commands.options import REMOVAL, TAG, VerbGroup
from segctl.cli.commands.prepare import prepare_host
from segctl.cli.exits import CliError
from segctl.cli.output import good, line
from segctl.cli.output_hosts import render_host, render_hosts, tags


@click.group(cls=VerbGroup)
def host() -> None:
    """List, show, prepare and remove enrolled hosts."""


host.add_command(prepare_host)


@host.command(
    "list",
    cls=Verb,
    short_help="List the hosts: state, tags, addresses.",
    changes="Nothing.",
    examples=["segctl host list", "segctl host list --json"],
)
@click.pass_obj
def list_hosts(app: App) -> None:
    """List every enrolled host with its state, tags and addresses."""
    with app.connect() as controller:
        hosts = controller.hosts()
    app.result(hosts, render_hosts(hosts, app.terminal.width))


@host.command(
    "show",
    cls=Verb,
    short_help="Show all that is known of one host.",
    changes="Nothing.",
    examples=["segctl host show web1"],
)
@click.argument("name")
@click.pass_obj
def show_host(app: App, name: str) -> None:
    """Show one host: tags, workloads with their effective modes and cgroups, listeners, problems, recent events.

    TOLD BY says by what the processes of a workload are told from others, HOW STRONG how well: race-free (no packet
    before the identity is known), closed-until-known (what is not known yet is dropped where something is enforced) or
    best-effort. Where it is weak, a sentence says why. An agent that does not say shows neither.
    """
    with app.connect() as controller:
        shown = controller.host(name)
        events = () if app.json else controller.status().events
    app.result(shown, render_host(shown, app.clock(), app.terminal.width, events))


@host.command(
    "remove",
    cls=Verb,
    short_help="Remove a host from the fleet for good.",
    changes="The host leaves the fleet: its certificate is no longer accepted, its addresses leave every rule on the\n"
    "other hosts. The host itself keeps enforcing its last generation until segctl-agent release.",
    examples=["segctl host remove web7", "segctl host remove web7 --yes"],
)
@click.argument("name")
@click.option("--yes", "-y", is_flag=True, help="Do not ask. Needed where nobody can answer.")
@click.pass_obj
def remove_host(app: App, name: str, yes: bool) -> None:
    """Remove a host from the fleet, for a server that is gone or must not come back."""
    with app.connect() as controller:
        leaving = controller.host(name)
        question = f"Remove {name} ({tags(leaving.tags) or 'no tags'}, {leaving.state}) from the fleet?"
        if not yes and not app.terminal.confirm(question, "Say --yes. Nothing was changed."):
            raise CliError("not confirmed: nothing was changed")
        controller.remove_host(name)
    app.result({"removed": name}, [line(good("Removed"), f" {name}. It has to enrol again to come back.")])


@click.command(
    cls=Verb,
    changes="The tags of the host, and with them the rules that name it: every host concerned is updated at once.",
    examples=["segctl tag web1", "segctl tag web1 env=prod role=web", "segctl tag web1 loc-"],
)
@click.argument("name", metavar="HOST")
@click.argument("changes", metavar="[KEY=VALUE | KEY-]...", nargs=-1)
@click.pass_obj
def tag(app: App, name: str, changes: tuple[str, ...]) -> None:
    """Set tags of a host with KEY=VALUE, remove them with KEY-, or show them when nothing else is given."""
    wanted, removed = parse_changes(changes)
    with app.connect() as controller:
        changed = controller.set_tags(name, wanted, removed) if changes else controller.host(name)
    app.result(changed, [line(f"{changed.name}: {tags(changed.tags) or 'no tags'}")])


def parse_changes(changes: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """(tags to set, keys to remove). Raises click.UsageError for anything else, and for a key named twice."""
    wanted: dict[str, str] = {}
    removed: list[str] = []
    for change in changes:
        setting, removal = TAG.fullmatch(change), REMOVAL.fullmatch(change)
        key = setting[1] if setting else removal[1] if removal else ""
        if not key:
            raise click.UsageError(f"{change!r} is no tag. Write KEY=VALUE to set, KEY- to remove.")
        if key in wanted or key in removed:
            raise click.UsageError(f"the tag {key!r} is named twice.")
        if setting:
            wanted[key] = setting[2]
        else:
            removed.append(key)
    return wanted, removed
