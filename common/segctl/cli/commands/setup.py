"""`segctl init` and `segctl completion`: what is needed once."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from segctl.cli import newcontroller
from segctl.cli.app import App, Verb
from segctl.cli.exits import CliError, Exit
from segctl.cli.output import bold, line, note

CONTROLLER = "segctl-controller"
STATE = "/var/lib/segctl-controller"


@click.command(
    cls=Verb,
    changes="Makes the state of a new controller (its CA, its database) in --state, and the certificate of the first\n"
    "administrator in --admin-out. It refuses where a controller was set up before. Runs segctl-controller init: for\n"
    "root as the user that the state folder belongs to. The certificate is root's, or whose who used sudo.",
    examples=[
        "sudo segctl init --name controller.example.net --name 10.0.0.5 --start",
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
@click.option("--start", is_flag=True, help="Start the controller's unit then, now and at every boot.")
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
    start: bool,
) -> int:
    """Set up a controller on this machine: its authority, its state and its first administrator."""
    place = state or app.environment.get("SEGCTL_CONTROLLER_STATE") or STATE
    if start and place != STATE:
        raise CliError(f"--start starts {newcontroller.UNIT}, whose state is {STATE}", "Leave out --state.", Exit.USAGE)
    who = admin or app.environment.get("SUDO_USER") or app.environment.get("USER") or "admin"
    owner, caller = newcontroller.owner_of(Path(place)), newcontroller.caller(app.environment)
    out = Path(admin_out) if admin_out else configuration(app, caller)
    arguments = [find_controller(app.environment.get("PATH", "")), "init", "--state", place, "--listen", listen]
    for name in names or (socket.getfqdn(),):
        arguments += ["--name", name]
    arguments += ["--port", str(port), "--enrol-port", str(enrol_port), "--admin", who, "--admin-out"]
    if owner is None:
        code = _run([*arguments, str(out)], app.json)
    else:
        newcontroller.refuse_taken(out)
        with newcontroller.staging(owner) as staged:
            code = _run([*arguments, str(staged)], app.json, owner)
            if code == 0:
                newcontroller.deliver(staged, out, caller)
    if code:
        return Exit.USAGE if code == Exit.USAGE else Exit.FINDINGS
    if start:
        newcontroller.start()
    run = "" if start else f"{CONTROLLER} run --state {place}     (or systemctl start {CONTROLLER})"
    steps = [
        run,
        f"segctl --config {out} whoami",
        "segctl token create --tag KEY=VALUE      (then enrol the first host)",
    ]
    app.result(
        {"state": place, "admin": who, "config": str(out)},
        [line(bold("Next:")), *(line("  ", note("→ "), step) for step in steps if step)],
    )
    return Exit.OK


def configuration(app: App, caller: newcontroller.Account | None) -> Path:
    """Where the credentials go: with sudo into the configuration of who used it, whose home is no longer $HOME."""
    if caller is None or app.directory or app.environment.get("SEGCTL_CONFIG"):
        return app.configuration
    return caller.home / ".config" / "segctl"


def _run(arguments: list[str], json: bool, owner: newcontroller.Account | None = None) -> int:
    """Its remarks go to stderr when `json`, for stdout holds our one document then."""
    stdout = sys.stderr if json else None
    if owner is None:
        return subprocess.run(arguments, check=False, stdout=stdout).returncode
    account: dict[str, Any] = {"user": owner.uid, "group": owner.gid, "extra_groups": [], "cwd": "/"}
    done = subprocess.run(arguments, check=False, stdout=stdout, stderr=subprocess.PIPE, text=True, **account)
    if done.returncode:  # else it names a folder that is gone in a moment
        sys.stderr.write(done.stderr)
    return done.returncode


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
