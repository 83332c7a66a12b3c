"""`segctl api-token`: secrets for automation. They go to stdout or to one file, and nowhere else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import click

from segctl.cli.app import App, Verb
from segctl.cli.commands.options import Duration, TagPair, VerbGroup
from segctl.cli.commands.token import new_secret_file
from segctl.cli.output import good, line
from segctl.cli.output_access import render_api_tokens, render_new_api_token


@click.group("api-token", cls=VerbGroup)
def api_token() -> None:
    """Create, list and revoke API tokens: what automation shows in place of a certificate."""


@api_token.command(
    "create",
    cls=Verb,
    short_help="Create an API token.",
    changes="Whoever holds the token has its role, until it expires or is revoked.",
    examples=[
        "segctl api-token create ci --role owner --scope app=shop --out ci.token",
        "segctl api-token create dashboard --role viewer --expires 30d",
        "segctl api-token create dash --role viewer | ssh ci 'umask 77; cat > ci.token'",
    ],
)
@click.argument("name")
@click.option(
    "--role", required=True, type=click.Choice(["viewer", "owner", "editor", "admin"]), help="What it may do."
)
@click.option("--scope", "scope", type=TagPair(), multiple=True, metavar="KEY=VALUE", help="Of an owner; repeat.")
@click.option("--expires", type=Duration(), default="90d", show_default=True, metavar="TIME", help="Such as 12h, 90d.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write it here, mode 0600."
)
@click.pass_obj
def create_api_token(
    app: App, name: str, role: str, scope: tuple[tuple[str, str], ...], expires: int, out: Path | None
) -> None:
    """Create the API token NAME. It is used from a file (SEGCTL_TOKEN_FILE) or the environment (SEGCTL_TOKEN), never
    from a command line, with a client configuration that holds client.json and ca.pem.

    It is a secret of one line: it goes to --out, or to stdout and everything else to stderr. It is shown once; the
    controller keeps only its digest.
    """
    if len(dict(scope)) != len(scope):
        raise click.UsageError("a tag key is named twice.")
    with app.connect() as controller:
        if out is None:
            made = controller.create_api_token(name, role, dict(scope), expires)
        else:
            with new_secret_file(out) as descriptor:
                made = controller.create_api_token(name, role, dict(scope), expires)
                os.write(descriptor, made.secret.encode() + b"\n")
            made = replace(made, secret="", file=str(out))
    app.remark(render_new_api_token(made, app.clock()))
    app.result(made, [line(made.secret)] if made.secret else [])


@api_token.command(
    "list",
    cls=Verb,
    short_help="List the API tokens, and when each was last used.",
    changes="Nothing.",
    examples=["segctl api-token list"],
)
@click.pass_obj
def list_api_tokens(app: App) -> None:
    """List the API tokens, and when each was last used (to a minute). Their secrets are not known any more."""
    with app.connect() as controller:
        tokens = controller.api_tokens()
    app.result(tokens, render_api_tokens(tokens, app.clock(), app.terminal.width))


@api_token.command(
    "revoke",
    cls=Verb,
    short_help="Revoke an API token by its id.",
    changes="The token is refused from now on, and what is open with it ends.",
    examples=["segctl api-token revoke a-3f9a12bc"],
)
@click.argument("identifier", metavar="TOKEN")
@click.pass_obj
def revoke_api_token(app: App, identifier: str) -> None:
    """Revoke an API token by the id that `segctl api-token list` shows."""
    with app.connect() as controller:
        controller.revoke_api_token(identifier)
    app.result({"revoked": identifier}, [line(good("Revoked"), f" API token {identifier}.")])
