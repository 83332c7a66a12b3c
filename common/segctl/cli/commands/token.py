"""`segctl token`: join tokens. The secret goes to stdout or to one file, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import click

from segctl.cli.app import App, Verb
from segctl.cli.commands.options import Duration, TagPair, VerbGroup
from segctl.cli.exits import CliError, Exit
from segctl.cli.output import good, line
from segctl.cli.output_lists import render_new_token, render_tokens


@click.group(cls=VerbGroup)
def token() -> None:
    """Create, list and revoke join tokens: what a new host shows to enrol."""


@token.command(
    "create",
    cls=Verb,
    short_help="Create a join token for a new host.",
    changes="Whoever holds the token may enrol a host with exactly these tags, until it expires or is used up.",
    examples=[
        "segctl token create --tag role=web --tag env=prod --out web.token",
        "segctl token create --tag role=db --host db1 --network 10.0.0.0/24 --valid 10m | ssh db1 ...",
        "segctl token create --host web1 --replace --tag role=web   # web1 was installed anew",
    ],
)
@click.option("--tag", "tags", type=TagPair(), multiple=True, metavar="KEY=VALUE", help="A tag of the host; repeat.")
@click.option("--host", default="", metavar="NAME", help="The name the host gets.  [default: its own hostname]")
@click.option("--network", "networks", multiple=True, metavar="CIDR", help="Addresses its host may hold; repeat.")
@click.option("--uses", type=click.IntRange(1, 10_000), default=1, show_default=True, help="How many hosts may use it.")
@click.option("--valid", type=Duration(), default="1h", show_default=True, metavar="TIME", help="Such as 10m, 1h, 2d.")
@click.option("--replace", "take_over", is_flag=True, help="Takes over the name of an enrolled host; needs --host.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write it here, mode 0600."
)
@click.pass_obj
def create_token(
    app: App,
    tags: tuple[tuple[str, str], ...],
    host: str,
    networks: tuple[str, ...],
    uses: int,
    valid: int,
    take_over: bool,
    out: Path | None,
) -> None:
    """Create a join token. It carries the tags, so a host can never choose its own.

    The token is a secret of one line: it goes to --out, or to stdout and everything else to stderr, so that it can be
    piped. It is shown once; the controller keeps only its digest.
    """
    wanted = dict(tags)
    if len(wanted) != len(tags):
        raise click.UsageError("a tag key is named twice.")
    if host and uses > 1:
        raise click.UsageError("a token for one host name has one use: leave out --host or --uses.")
    ranges = [_network(text) for text in networks]
    with app.connect() as controller:
        if out is None:
            made = controller.create_token(wanted, host, uses, valid, ranges, take_over)
        else:
            with new_secret_file(out) as descriptor:
                made = controller.create_token(wanted, host, uses, valid, ranges, take_over)
                os.write(descriptor, made.join.encode() + b"\n")
            made = replace(made, join="", file=str(out))
    app.remark(render_new_token(made, app.clock()))
    app.result(made, [line(made.join)] if made.join else [])


@token.command(
    "list",
    cls=Verb,
    short_help="List the tokens that can still be used.",
    changes="Nothing.",
    examples=["segctl token list"],
)
@click.pass_obj
def list_tokens(app: App) -> None:
    """List the tokens that can still be used. Their secrets are not known any more."""
    with app.connect() as controller:
        tokens = controller.tokens()
    app.result(tokens, render_tokens(tokens, app.clock(), app.terminal.width))


@token.command(
    "revoke",
    cls=Verb,
    short_help="Revoke a join token by its id.",
    changes="The token is refused from now on. Hosts that enrolled with it stay: segctl host remove.",
    examples=["segctl token revoke 3f9a"],
)
@click.argument("identifier", metavar="TOKEN")
@click.pass_obj
def revoke_token(app: App, identifier: str) -> None:
    """Revoke a join token by the id that `segctl token list` shows."""
    with app.connect() as controller:
        controller.revoke_token(identifier)
    app.result({"revoked": identifier}, [line(good("Revoked"), f" token {identifier}.")])


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise click.UsageError(f"--network {text!r}: {error}. Write a network such as 10.0.0.0/24.") from error


@contextmanager
def new_secret_file(path: Path) -> Iterator[int]:
    """A new file that only we may read. It is opened before the token exists and goes again when none is made, so a
    token never exists without a place. Raises CliError when there is a file already."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise CliError(f"{path}: exists already; no token was made", "Name a new file.", Exit.USAGE) from error
    except OSError as error:
        mend = "Name a file in a directory you may write to."
        raise CliError(f"{path}: {error.strerror}; no token was made", mend, Exit.USAGE) from error
    try:
        yield descriptor
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
