"""`python -m lab nspawn`: a lab of systemd machines to play with.

up          raises it with the example policy pushed; it stays until `down`
            --base host (this machine's own root) or debootstrap (Debian 12, made once and kept)
            --traffic: instead an unsegmented shop of ten servers that only observes, with customers and all
enter       enter web1 --user alice -- COMMAND...; without a command a shell
reboot, power-loss, cut, heal    HOST
restart     HOST UNIT
down
record      boots an unsegmented shop with traffic, lets it run and writes what the agents told (tests/data)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lab.host import REPOSITORY
from lab.instance import BASE, LabError, is_alive
from lab.nspawn.debootstrap import debian_base
from lab.nspawn.fleet import NspawnFleet
from lab.nspawn.lab import HOST_ROOT, LivingNspawnLab, NspawnLab, find_nspawn_lab
from lab.nspawn.record import ATTACKER, TRAFFIC, observe, record_traffic
from lab.recording import SHOP_TRAFFIC, write_recording
from lab.signals import leave_orderly
from lab.topology import load_topology
from lab.wait import DeadlineError, until

NAME = f"nspawn-{hashlib.sha256(str(REPOSITORY).encode()).hexdigest()[:8]}"
"""One for each checkout, beside its lab of namespaces."""
CONTROL = BASE / NAME / "control"
LOG = Path(f"/run/{NAME}.log")

HOW = """
The shop runs on systemd machines, and its policy is in force. Try:

  {lab} enter client1 -- curl -s web1/api/
      passes: nginx asks the API, the API asks PostgreSQL
  {lab} enter client1 -- curl -s web1/to/10.77.3.11:5432
      refused: who broke into nginx does not reach the database
  {lab} enter ctl -- segctl status
  {lab} enter ctl -- segctl denied --suggest
  {lab} enter web1 -- journalctl -u segctl-agent -n 20
  {lab} power-loss web1
  {lab} restart web1 nginx.service
  {lab} cut web1; {lab} heal web1

The policy is /root/policy on ctl. Take it down with `{lab} down`.
"""

HOW_TRAFFIC = """
An unsegmented shop runs on systemd machines, and its agents observe. Try, after some seconds:

  {lab} enter ctl -- segctl flows --process nginx
  {lab} enter client1 -- journalctl -fu customers
  {lab} enter stray1 -- systemctl start attack
      somebody got into the network, and into the nginx of web2
  {lab} enter ctl -- segctl flows --address 10.77.66.6

The agents' policy is /root/policy on ctl: only a vocabulary. Take it down with `{lab} down`.
"""


def _living() -> LivingNspawnLab:
    living = find_nspawn_lab(NAME)
    if living is None:
        raise LabError("no lab of systemd machines of this checkout is up: `python -m lab nspawn up`")
    return living


def up(options: argparse.Namespace) -> int:
    """Start the keeper in the background and wait until it says that everything is in force."""
    if find_nspawn_lab(NAME) is None:
        if options.base == "debootstrap":
            print("the base: debootstrap takes one to three minutes the first time", flush=True)
        began = time.monotonic()
        traffic = ["--traffic"] if options.traffic else []
        with LOG.open("w") as log:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "lab", "nspawn", "keep", "--base", options.base, *traffic],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert keeper.stdout is not None
        if keeper.stdout.readline() != b"ready\n":
            raise LabError(f"the lab did not come up: {LOG.read_text()}")
        print(f"up after {time.monotonic() - began:.0f} s")
    how = HOW_TRAFFIC if ATTACKER in _living().places else HOW
    print(how.format(lab=f"{os.path.relpath(sys.executable)} -m lab nspawn"))
    return 0


def keep(options: argparse.Namespace) -> int:
    """Own the lab until SIGTERM, and do what `reboot` and the like ask for. Started by `up`."""
    leave_orderly()
    base = debian_base() if options.base == "debootstrap" else HOST_ROOT
    topology = load_topology(TRAFFIC) if options.traffic else None
    with NspawnFleet(NspawnLab(topology, NAME, base)) as fleet, socket.socket(socket.AF_UNIX) as control:
        if options.traffic:
            observe(fleet)
        else:
            fleet.push(REPOSITORY / "examples" / "shop")
        control.bind(str(CONTROL))
        CONTROL.chmod(0o600)
        control.listen()
        threading.Thread(target=_serve, args=(control, fleet), daemon=True).start()
        print("ready", flush=True)
        while True:
            signal.pause()


def _serve(control: socket.socket, fleet: NspawnFleet) -> None:
    """One request a connection: a JSON list of the verb, the host and more; answered with "" or what went wrong."""
    verbs: dict[str, Callable[..., object]] = {
        "reboot": lambda host: fleet.machines[host].reboot(),
        "power-loss": lambda host: fleet.machines[host].power_loss(),
        "cut": lambda host: fleet.lab.partition(host, cut=True),
        "heal": lambda host: fleet.lab.partition(host, cut=False),
        "restart": lambda host, unit: fleet.machines[host].restart_unit(unit),
    }
    while True:
        link, _ = control.accept()
        with link:
            verb, *arguments = json.loads(link.recv(4096))
            try:
                verbs[verb](*arguments)
                answer = ""
            except (LabError, DeadlineError, OSError, subprocess.SubprocessError) as error:
                answer = str(error)
            link.sendall(json.dumps(answer).encode())


def ask(options: argparse.Namespace) -> int:
    """Let the keeper do it, and wait until it is done."""
    _living().place(options.host)
    arguments = [options.verb, options.host, *([options.unit] if options.verb == "restart" else [])]
    began = time.monotonic()
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(CONTROL))
        link.sendall(json.dumps(arguments).encode())
        link.shutdown(socket.SHUT_WR)
        answer = json.loads(b"".join(iter(lambda: link.recv(65536), b"")))
    if answer:
        raise LabError(answer)
    print(f"{' '.join(arguments)}: done after {time.monotonic() - began:.1f} s")
    return 0


def down(_: argparse.Namespace) -> int:
    living = find_nspawn_lab(NAME)
    if living is None:
        print("no lab of systemd machines of this checkout is up")
        return 0
    os.kill(living.owner, signal.SIGTERM)
    until("the lab is down", lambda: not is_alive(living.directory) and not living.directory.exists(), 60)
    LOG.unlink(missing_ok=True)
    print("the lab is down; nothing of it is left")
    return 0


def status(_: argparse.Namespace) -> int:
    for name, place in _living().places.items():
        print(f"{name:10} {'on' if place.leader() else 'off'}")
    return 0


def enter(options: argparse.Namespace) -> int:
    """Become COMMAND in the machine."""
    place = _living().place(options.host)
    environment = {"TERM": os.environ.get("TERM", "dumb")}
    argv = place.argv(options.command or ["bash", "-l"], options.unit, options.user, environment)
    os.execvp(argv[0], argv)


def record(options: argparse.Namespace) -> int:
    leave_orderly()
    recording = record_traffic(options.days, options.attack_day, lambda text: print(text, flush=True))
    write_recording(recording, options.out)
    print(f"{options.out}: {len(recording.flows)} rows of {len(recording.managed)} hosts")
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m lab nspawn", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for function in (up, keep, down, status):
        one = commands.add_parser(function.__name__)
        one.add_argument("--base", choices=("host", "debootstrap"), default="host")
        one.add_argument("--traffic", action="store_true")
        one.set_defaults(run=function)
    for verb in ("reboot", "power-loss", "cut", "heal", "restart"):
        one = commands.add_parser(verb)
        one.add_argument("host")
        if verb == "restart":
            one.add_argument("unit")
        one.set_defaults(run=ask, verb=verb)
    one = commands.add_parser("record")
    one.add_argument("--out", type=Path, default=SHOP_TRAFFIC, help="default: %(default)s")
    one.add_argument("--days", type=int, default=7, help="a day takes a minute; default: %(default)s")
    one.add_argument("--attack-day", type=int, default=4, help="the first is 0; default: %(default)s")
    one.set_defaults(run=record)
    one = commands.add_parser("enter")
    one.add_argument("host")
    one.add_argument("--unit", default="", help="a unit, or a cgroup path")
    one.add_argument("--user", default="root")
    one.set_defaults(run=enter)
    return top


def main(arguments: list[str]) -> int:
    dashes = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser().parse_args(arguments[:dashes])
    options.command = arguments[dashes + 1 :]
    return int(options.run(options))
