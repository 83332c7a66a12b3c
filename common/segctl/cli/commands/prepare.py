"""`segctl host prepare`: race-free identity through a slice for each workload."""

from __future__ import annotations

from pathlib import Path

import click

from segctl.cli.app import App, Verb
from segctl.cli.drop_ins import Written, write_drop_ins
from segctl.cli.exits import CliError
from segctl.cli.output import Line, bold, dim, good, line, warn
from segctl.cli.sources import load_sources
from segctl.model.findings import Severity
from segctl.model.policy import Policy, Tags
from segctl.policy.parse import parse_policy
from segctl.policy.prepare import Preparation, prepare
from segctl.policy.source import SourceFile


@click.command(
    "prepare",
    cls=Verb,
    short_help="Put each workload by unit into a slice of its own.",
    changes="Nothing; with --write the drop-ins of one directory of this machine. It restarts nothing: what has to be\n"
    "restarted is printed.",
    examples=[
        "segctl host prepare policy/",
        "segctl host prepare --host db1 > drop-ins.txt",
        "segctl host prepare --host db1 --write /etc/systemd/system",
    ],
)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path())
@click.option("--host", metavar="NAME", help="Only the workloads of this enrolled host.")
@click.option(
    "--write",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write them below this directory of units, and remove what an earlier run wrote and is no longer wanted.",
)
@click.option("--print", "printed", is_flag=True, help="Print the drop-ins. This is what happens without --write.")
@click.pass_obj
def prepare_host(app: App, paths: tuple[str, ...], host: str | None, directory: Path | None, printed: bool) -> None:
    """Print or write the systemd drop-ins that make the identity of workloads by unit race-free.

    Each gets the slice seg-NAME.slice, whose cgroup stays when its units start again, so that a process is known from
    its first packet on. A PATH is a file, a directory or - for stdin; without one it is the policy in force.
    """
    if directory is not None and printed:
        raise click.UsageError("--print and --write DIR: choose one of the two.")
    policy = _policy(app, paths)
    workloads = list(policy.workloads.values())
    if host is not None:
        with app.connect() as controller:
            tags = Tags.of(controller.host(host).tags)
        workloads = [w for w in workloads if tags.includes(w.on)]
    wanted = prepare(workloads, one_host=host is not None)
    if directory is None:
        app.result(wanted, [*_files(wanted), *_remarks(wanted)])
        return
    written = write_drop_ins(wanted.files, directory)
    outcome = {
        "changed": written.changed,
        "removed": written.removed,
        "commands": wanted.commands,
        "sockets": wanted.sockets,
    }
    app.result({**outcome, "unprepared": wanted.unprepared}, [*_outcome(written, directory), *_remarks(wanted)])


def _policy(app: App, paths: tuple[str, ...]) -> Policy:
    """The policy of the files, or the one in force. Raises CliError for one with errors."""
    if paths:
        sources, what = load_sources(paths), "the policy"
    else:
        with app.connect() as controller:
            active = controller.status().active
            if active is None:
                raise CliError("no policy is in force yet", "Name policy files, or push them first.")
            found = controller.generation(active.number)
        sources = tuple(SourceFile(f.name, f.content.encode()) for f in found.files)
        what = f"the policy of generation {active.number}"
    parsed = parse_policy(sources)
    errors = [f for f in parsed.findings if f.severity is Severity.ERROR]
    if parsed.policy is None or errors:
        first = f": {errors[0].position}: {errors[0].message}" if errors else ""
        raise CliError(f"{what} has errors{first}", "`segctl check` shows all of them.")
    return parsed.policy


def _files(wanted: Preparation) -> list[Line]:
    lines: list[Line] = []
    for file in wanted.files:
        lines += [line(bold(f"# {file.path}")), *(line(text) for text in file.content.splitlines()), line("")]
    return lines


def _outcome(written: Written, directory: Path) -> list[Line]:
    lines = [line(good("Wrote"), f" {directory / path}") for path in written.changed]
    lines += [line(good("Removed"), f" {directory / path}") for path in written.removed]
    return lines or [line(f"Nothing to write: {directory} is as it should be.")]


def _remarks(wanted: Preparation) -> list[Line]:
    lines = [line(dim("# "), warn(f"{left.workload} ({left.process})"), f": {left.why}") for left in wanted.unprepared]
    if not wanted.commands:
        return [*lines, line(dim("# No workload by unit: nothing to prepare."))]
    lines.append(line(dim("# It takes effect when the units start again:")))
    lines += [line(dim("#   "), command) for command in wanted.commands]
    if wanted.sockets:
        lines.append(
            line(dim("# A listener that systemd made keeps its old slice. Where these sockets exist, one by one:"))
        )
        lines += [line(dim("#   "), _anew(socket)) for socket in wanted.sockets]
    return lines


def _anew(socket: str) -> str:
    service = socket.removesuffix(".socket") + ".service"
    return f"systemctl stop '{service}'; systemctl restart '{socket}'"
