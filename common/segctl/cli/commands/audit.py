"""`segctl audit`: the audit log, and the proof that it is whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TextIO

import click

from segctl.auditchain import LONGEST_LINE, Link, Verifier, parse_line
from segctl.cli.app import App, Verb
from segctl.cli.commands.options import Duration, QuestionGroup
from segctl.cli.exits import CliError, Exit
from segctl.cli.output import good, line
from segctl.cli.output_access import render_audit, render_proof
from segctl.cli.views_access import AuditProof


@click.group(
    cls=QuestionGroup,
    invoke_without_command=True,
    changes="Nothing.",
    examples=[
        "segctl audit",
        "segctl audit --who alice --did push --since 7d",
        "segctl audit --limit 1000 --json",
    ],
)
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many, newest first.")
@click.option("--who", default="", metavar="NAME", help="Only what this actor did.")
@click.option("--did", default="", metavar="ACTION", help="Only this action, such as push or access-refused.")
@click.option("--to", default="", metavar="SUBJECT", help='Only what was done to this, such as "host web1".')
@click.option("--since", type=Duration(), metavar="TIME", help="Only the last 30m, 2h, 30d.")
@click.option("--wide", "-w", is_flag=True, help="Add the address and what was shown (certificate, token, sign-in).")
@click.pass_context
def audit(ctx: click.Context, limit: int, who: str, did: str, to: str, since: int | None, wide: bool) -> None:
    """Show who changed what, and when; also who was refused. The log only grows, and each entry holds the hash of the
    one before: segctl audit verify finds any that was changed."""
    if ctx.invoked_subcommand is not None:
        return
    app = ctx.ensure_object(App)
    start = app.clock() - timedelta(seconds=since) if since else None
    with app.connect() as controller:
        entries = controller.audit(limit, who, did, to, start)
    app.result(entries, render_audit(entries, app.terminal.width, wide))


@audit.command(
    "verify",
    cls=Verb,
    short_help="Prove that the audit log is whole.",
    changes="Nothing.",
    examples=[
        "segctl audit verify",
        "segctl audit verify --since-head 9f2c51e07a3b",
        "segctl audit verify --file audit.jsonl",
    ],
)
@click.option("--since-head", default="", metavar="HASH", help="A head noted earlier, or its first 12 letters or more.")
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="An export; - is stdin.",
)
@click.pass_obj
def verify(app: App, since_head: str, file: Path | None) -> None:
    """Prove that the audit log is whole: every entry is fetched and hashed here; the controller's word is not taken.

    The head is the hash of the last entry, and stands for the whole log. Note it where the controller cannot reach:
    with --since-head, a later run proves that the log still holds what it held then. Exits 1 when it does not.
    """
    if since_head and (len(since_head) < 12 or set(since_head.lower()) - set("0123456789abcdef")):
        raise click.UsageError("--since-head: at least 12 hexadecimal letters of a head.")
    verifier = Verifier(since_head)
    if file is not None:
        for link in _from_file(file):
            verifier.take(link)
    else:
        with app.connect() as controller:
            for link in controller.audit_links():
                verifier.take(link)
    verifier.finish()
    proof = AuditProof(verifier.count, verifier.head, since_head)
    app.result(proof, render_proof(proof))


@audit.command(
    "export",
    cls=Verb,
    short_help="Write the audit log as JSON, an entry a line.",
    changes="Nothing on the fleet; with --out it writes one new file.",
    examples=["segctl audit export --out audit.jsonl", "segctl audit export | gzip > audit.jsonl.gz"],
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="A new file, not stdout.")
@click.pass_obj
def export(app: App, out: Path | None) -> None:
    """Write the whole audit log, oldest first, an entry a line, verified on its way. segctl audit verify --file reads
    it."""
    verifier = Verifier()
    with app.connect() as controller, _output(out) as stream:
        for link in controller.audit_links():
            verifier.take(link)
            if stream is None:
                app.terminal.write(link.line())
            else:
                stream.write(link.line() + "\n")
    if out is not None:
        proof = AuditProof(verifier.count, verifier.head)
        app.result(proof, [line(good("Wrote"), f" {out}"), *render_proof(proof)])


@contextmanager
def _output(out: Path | None) -> Iterator[TextIO | None]:
    """Raises CliError where there is a file already. None is stdout."""
    if out is None:
        yield None
        return
    try:
        with out.open("x", encoding="ascii") as stream:
            yield stream
    except FileExistsError as error:
        raise CliError(f"{out}: exists already", "Name a new file.", Exit.USAGE) from error
    except OSError as error:
        raise CliError(
            f"{out}: {error.strerror}", "Name a file in a directory you may write to.", Exit.USAGE
        ) from error


def _from_file(path: Path) -> Iterator[Link]:
    """Raises CliError for a file that cannot be read, ChainError for a line that is no entry."""
    try:
        with sys.stdin if str(path) == "-" else path.open(encoding="utf-8", errors="replace") as stream:
            number = 0
            while text := stream.readline(LONGEST_LINE):
                number += 1
                yield parse_line(text, f"{path}:{number}")
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}", "Name a file of segctl audit export.", Exit.USAGE) from error
