"""`segctl init` and `segctl completion`: what is needed once."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from segctl.cli.app import App, Verb
from segctl.cli.exits import CliError, Exit
from segctl.cli.output import bold, line, note

CONTROLLER = "segctl-controller"
STATE = "/var/lib/segctl-controller"


@click.command(
    cls=Verb,
    changes="Makes the state of a new controller (its CA, its database) in --state, and the certificate of the first\n"
    "administrator in --admin-out. It refuses where a controller was set up before. Runs segctl-controller init.",
    examples=[
        "segctl init --name controller.example.net --name 10.0.0.5",
        "segctl init --state ./state --listen 127.0.0.1 --name localhost --admin alice --admin-out ./alice",
    ],
)
@click.option("--state", metavar="DIR", help=f"Where it lives.  [default: $SEGCTL_CONTROLLER_STATE or {STATE}]")
@click.option("--listen", default="0.0.0.0", show_default=True, metavar="ADDRESS", help="Where it listens.")  # noqa: S104
@click.option(
    "--name", "names", multiple=True, metavar="NAME", help="What hosts call it; repeat.  [default: this host]"
)
@click.option("--port", type=click.IntRange(1, 65535), default=7443, show_default=True, help="For hosts and segctl.")
@click.option("--enrol-port", type=click.IntRange(1, 65535), default=7444, show_default=True, help="For new hosts.")
@click.option("--admin", metavar="NAME", help="The first administrator.  [default: you]")
@click.option("--admin-out", metavar="DIR", help="Where its certificate goes.  [default: the client configuration]")
@click.pass_obj
def init(
    app: App,
    state: str | None,
    listen: str,
    names: tuple[str, ...],
    port: int,
    enrol_port: int,
    admin: str | None,
    admin_out: str | None,
) -> int:
    """Set up a controller on this machine: its authority, its state and its first administrator."""
    place = state or app.environment.get("SEGCTL_CONTROLLER_STATE") or STATE
    who = admin or app.environment.get("SUDO_USER") or app.environment.get("USER") or "admin"
    out = admin_out or str(app.configuration)
    arguments = [find_controller(app.environment.get("PATH", "")), "init", "--state", place, "--listen", listen]
    for name in names or (socket.getfqdn(),):
        arguments += ["--name", name]
    arguments += ["--port", str(port), "--enrol-port", str(enrol_port), "--admin", who, "--admin-out", out]
    # Its remarks go to stderr, for stdout holds our one document.
    code = subprocess.run(arguments, check=False, stdout=sys.stderr if app.json else None).returncode
    if code:
        return Exit.USAGE if code == Exit.USAGE else Exit.FINDINGS
    app.result(
        {"state": place, "admin": who, "config": out},
        [
            line(bold("Next:")),
            line("  ", note("→ "), f"{CONTROLLER} run --state {place}     (or systemctl start {CONTROLLER})"),
            line("  ", note("→ "), f"segctl --config {out} whoami"),
            line("  ", note("→ "), "segctl token create --tag KEY=VALUE      (then enrol the first host)"),
        ],
    )
    return Exit.OK


def find_controller(search: str) -> str:
    """The controller's program on `search` (a PATH) or beside this Python. Raises CliError when it is not installed."""
    beside = Path(sys.executable).parent / CONTROLLER
    found = shutil.which(CONTROLLER, path=search) or (str(beside) if os.access(beside, os.X_OK) else None)
    if found is None:
        raise CliError(
            f"{CONTROLLER} is not installed here: neither on the PATH nor in {beside.parent}",
            "Install it on the machine that shall be the controller: pip install 'segctl[controller]'",
        )
    return found


@click.command(
    cls=Verb,
    changes="Nothing; it prints a script.",
    examples=[
        "segctl completion bash > /etc/bash_completion.d/segctl",
        "segctl completion zsh > ~/.zfunc/_segctl",
        "segctl completion fish > ~/.config/fish/completions/segctl.fish",
    ],
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, options and files in your shell."""
    chosen = get_completion_class(shell)
    if chosen is None:
        raise CliError(f"click knows no completion for {shell}", "Use bash, zsh or fish.", Exit.USAGE)
    script = chosen(ctx.find_root().command, {}, "segctl", "_SEGCTL_COMPLETE").source()
    app = ctx.ensure_object(App)
    app.result({"shell": shell, "script": script}, [])
    if not app.json:
        # As it is: the lines of a script are no text to be made printable.
        app.terminal.write(script)
