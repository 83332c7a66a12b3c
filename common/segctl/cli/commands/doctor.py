"""`segctl doctor`: on a host or a controller, what its own program says of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click

from segctl.cli.app import App, Verb
from segctl.cli.exits import CliError, Exit
from segctl.cli.output import line, warn

PARTS = {
    "agent": ("segctl-agent", "SEGCTL_AGENT_STATE", "/var/lib/segctl-agent"),
    "controller": ("segctl-controller", "SEGCTL_CONTROLLER_STATE", "/var/lib/segctl-controller"),
}


@click.command(
    cls=Verb,
    changes="Nothing.",
    examples=[
        "sudo segctl doctor",
        "sudo segctl doctor --json | jq '.agent.findings[] | select(.level == \"problem\")'",
    ],
)
@click.pass_obj
def doctor(app: App) -> Exit:
    """Find what is wrong with this machine, host or controller, and what to do: each finding names the next step.

    Runs `segctl-agent doctor` where an agent's state folder is, and `segctl-controller doctor` where a controller's is.
    As root: it says what it could not look at otherwise. It does not ask the controller: for the fleet, segctl status.
    """
    here = {name: part for name, part in PARTS.items() if Path(app.environment.get(part[1]) or part[2]).exists()}
    if not here:
        raise CliError(
            "this machine is no host and no controller: it has no "
            + " and no ".join(app.environment.get(part[1]) or part[2] for part in PARTS.values()),
            "Run it on a host that is enrolled. For the fleet, from anywhere: segctl status.",
        )
    codes, documents = [], {}
    for name, (program, variable, default) in here.items():
        state = app.environment.get(variable) or default
        found = _find(program, app.environment.get("PATH", ""))
        if found is None:
            app.terminal.tell([line(warn(f"{program} is not installed"), f", and its state is still in {state}")])
            codes.append(1)
            continue
        command = [found, "doctor", "--state", state]
        if app.json:
            told = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=False)
            documents[name] = json.loads(told.stdout) if told.stdout.strip() else None
            codes.append(told.returncode)
        else:
            codes.append(subprocess.run(command, check=False).returncode)
    if app.json:
        app.result({name: documents.get(name) for name in PARTS}, ())
    return Exit.FINDINGS if any(codes) else Exit.OK


def _find(program: str, search: str) -> str | None:
    """Beside this Python or on `search`, a PATH."""
    beside = Path(sys.executable).parent / program
    return (str(beside) if os.access(beside, os.X_OK) else None) or shutil.which(program, path=search)
