"""`python -m lab`: a lab to play with. up, down, status, and enter HOST to run a command there as a unit or a user.

up        raises the lab of this checkout with the example policy pushed; it stays until `down`
enter     enter web1 --unit nginx.service --user www-data -- COMMAND...
nspawn    the same fleet as full systemd machines: `python -m lab nspawn --help`
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from lab.fleet import BIN, Fleet
from lab.host import REPOSITORY
from lab.instance import LabError, is_alive
from lab.netns import SWITCH, Lab, LivingLab, find_lab
from lab.signals import leave_orderly
from lab.wait import DeadlineError, until

NAME = f"lab-{hashlib.sha256(str(REPOSITORY).encode()).hexdigest()[:8]}"
"""One lab for each checkout, so that two never meet."""
LOCAL = REPOSITORY / ".segctl-lab"
POLICY = REPOSITORY / "examples" / "shop"

HOW = """
The shop's lab is up, and its policy is in force. Try:

  {lab} enter web1 --unit nginx.service -- {call} api1 8080
      passes: the web server may ask the api
  {lab} enter web1 --unit cron.service -- {call} api1 8080
      refused: another process of the same host

  {segctl} status
  {segctl} denied --suggest
  {segctl} flows                       some seconds after the connection
  {segctl} report rules
  {segctl} host show web1
  {segctl} explain web1/shop-web api1/shop-api tcp/8080

  {lab} enter api1 -- nft list chains inet
  {lab} enter web1 --user alice        a shell

The policy is in {policy}. Change a copy of it, then
  {segctl} plan COPY
  {segctl} push COPY

Logs: {logs}
Take it down with `make lab-down`.
"""


def _living() -> LivingLab:
    living = find_lab(NAME)
    if living is None:
        raise LabError("no lab of this checkout is up: raise it with `make lab`")
    return living


def up(_: argparse.Namespace) -> int:
    """Start the keeper in the background and wait until it says that everything is in force."""
    if find_lab(NAME) is None:
        LOCAL.mkdir(exist_ok=True)
        with (LOCAL / "keeper.log").open("w") as log:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "lab", "keep"],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
            assert keeper.stdout is not None
            if keeper.stdout.readline() != b"ready\n":
                raise LabError(f"the lab did not come up: {(LOCAL / 'keeper.log').read_text()}")
    lab, wrapper = write_wrappers(_living())
    call = f"{LOCAL.relative_to(REPOSITORY)}/call"
    print(HOW.format(segctl=wrapper, lab=lab, call=call, policy="examples/shop", logs=_living().directory / "log"))
    return 0


def write_wrappers(living: LivingLab) -> tuple[str, str]:
    """Small scripts in .segctl-lab: `segctl` as the administrator on the controller's host, `lab` and `call`. Returns
    the first two as one types them from the top of the repository."""
    LOCAL.mkdir(exist_ok=True)
    scripts = {
        "lab": f'exec env PYTHONPATH="{REPOSITORY}" "{sys.executable}" -P -m lab "$@"',
        "segctl": f'exec env SEGCTL_CONFIG="{living.directory}/admin" "{LOCAL}/lab" enter ctl -- "{BIN}/segctl" "$@"',
        "call": f'exec /usr/bin/python3 -I -S "{REPOSITORY}/lab/programs.py" call "$@"',
    }
    for name, line in scripts.items():
        script = LOCAL / name
        script.write_text(f"#!/bin/sh\n{line}\n")
        script.chmod(0o755)
    return ".segctl-lab/lab", ".segctl-lab/segctl"


def keep(_: argparse.Namespace) -> int:
    """Own the lab until SIGTERM. Started by `up`."""
    leave_orderly()
    with Fleet(Lab(name=NAME)) as fleet:
        fleet.segctl_checked("push", str(POLICY), "--yes", "--message", "the example policy")
        print("ready", flush=True)
        while True:
            signal.pause()


def down(_: argparse.Namespace) -> int:
    living = find_lab(NAME)
    if living is None:
        print("no lab of this checkout is up")
        return 0
    os.kill(living.owner, signal.SIGTERM)
    until("the lab is down", lambda: not is_alive(living.directory) and not living.directory.exists(), 30)
    for script in LOCAL.iterdir():
        script.unlink()
    LOCAL.rmdir()
    print("the lab is down; nothing of it is left")
    return 0


def status(_: argparse.Namespace) -> int:
    for name, place in sorted(_living().places.items()):
        if name != SWITCH:
            units = sorted(path.parent.name for path in Path(place.cgroup).rglob("cgroup.procs") if path.read_text())
            print(f"{name:10} {' '.join(units)}")
    return 0


def enter(options: argparse.Namespace) -> int:
    """Become COMMAND on the host."""
    argv = _living().place(options.host).argv(options.command or ["bash"], options.unit, options.user)
    os.environ["PATH"] = f"{BIN}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"
    os.execvp(argv[0], argv)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m lab", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = top.add_subparsers(required=True, metavar="up|down|status|enter|nspawn")
    for function in (up, down, status, keep):
        commands.add_parser(function.__name__).set_defaults(run=function)
    one = commands.add_parser("enter")
    one.add_argument("host")
    one.add_argument("--unit", default="", help="a unit, or a cgroup path; else a login session of the user")
    one.add_argument("--user", default="root")
    one.set_defaults(run=enter)
    return top


def main() -> int:
    arguments = sys.argv[1:]
    try:
        if arguments[:1] == ["nspawn"]:
            from lab.nspawn import command

            return command.main(arguments[1:])
        dashes = arguments.index("--") if "--" in arguments else len(arguments)
        options = parser().parse_args(arguments[:dashes])
        options.command = arguments[dashes + 1 :]
        return int(options.run(options))
    except (LabError, DeadlineError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
