"""segctl-controller admin: who may use the command line and the API, and in which role."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from segctl_controller.clock import Clock
from segctl_controller.options import STATE
from segctl_controller.principal import parse_scope
from segctl_controller.setup import (
    add_operator,
    map_group,
    open_store,
    remove_operator,
    renew_operator,
    unmap_group,
    write_client,
)
from segctl_controller.store.records import Role

ROLE = click.option("--role", required=True, type=click.Choice([r.value for r in Role]))
SCOPE = click.option(
    "--scope",
    multiple=True,
    metavar="KEY=VALUE",
    help="Of an owner: the tags of what belongs to it; repeat for each key.",
)


@click.group()
def admin() -> None:
    """Who may use the CLI, and in which role: operators, and groups of the OpenID provider."""


@admin.command("add")
@click.argument("name")
@ROLE
@SCOPE
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@STATE
def admin_add(name: str, role: str, scope: tuple[str, ...], out: Path, state: Path) -> None:
    """Make credentials for NAME in DIR. Works while the controller runs."""
    store = open_store(state)
    try:
        add_operator(state, store, name, Role(role), out, Clock(), parse_scope(scope))
    finally:
        store.close()
    click.echo(f"credentials of {name} ({role}) in {out}", err=True)


@admin.command("client")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@STATE
def admin_client(out: Path, state: Path) -> None:
    """Write what whoever shows a token needs into DIR: client.json and ca.pem, which are no secrets."""
    write_client(state, out)
    click.echo(f"client configuration in {out}: for segctl login, or with an API token in SEGCTL_TOKEN_FILE", err=True)


@admin.command("map-group")
@click.argument("group")
@ROLE
@SCOPE
@STATE
def admin_map_group(group: str, role: str, scope: tuple[str, ...], state: Path) -> None:
    """Give a role to the members of GROUP at the OpenID provider. Again with another scope: they own that too."""
    store = open_store(state)
    try:
        map_group(store, group, Role(role), parse_scope(scope), Clock())
    finally:
        store.close()
    click.echo(f"members of {group} are {role}{f' of {parse_scope(scope)}' if scope else ''}", err=True)


@admin.command("unmap-group")
@click.argument("group")
@STATE
def admin_unmap_group(group: str, state: Path) -> None:
    """Take every role from the members of GROUP, at once."""
    store = open_store(state)
    try:
        unmap_group(store, group, Clock())
    finally:
        store.close()
    click.echo(f"group {group} has no role any more", err=True)


@admin.command("groups")
@STATE
def admin_groups(state: Path) -> None:
    """Print group, role and scope, one a line."""
    store = open_store(state)
    try:
        for group in store.groups():
            click.echo(f"{group.name}\t{group.role.value}\t{group.scope}")
    finally:
        store.close()


@admin.command("renew")
@click.argument("name")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@STATE
def admin_renew(name: str, out: Path, state: Path) -> None:
    """Make new credentials for NAME in DIR; those before end at once. Works while the controller runs."""
    store = open_store(state)
    try:
        renew_operator(state, store, name, out, Clock())
    finally:
        store.close()
    click.echo(f"new credentials of {name} in {out}; the ones before have ended", err=True)


@admin.command("list")
@STATE
def admin_list(state: Path) -> None:
    """Print name, role, the time of making and the scope, one operator a line."""
    store = open_store(state)
    try:
        for operator in store.operators():
            made = datetime.fromtimestamp(operator.created_us / 1e6, UTC)
            click.echo(f"{operator.name}\t{operator.role.value}\t{made:%Y-%m-%dT%H:%M:%SZ}\t{operator.scope}".rstrip())
    finally:
        store.close()


@admin.command("remove")
@click.argument("name")
@STATE
def admin_remove(name: str, state: Path) -> None:
    """Take NAME's rights away, at once."""
    store = open_store(state)
    try:
        remove_operator(store, name, Clock())
    finally:
        store.close()
    click.echo(f"operator {name} removed", err=True)
