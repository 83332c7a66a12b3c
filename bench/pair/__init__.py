"""A server and its client as systemd machines with segctl's packages, for probes of `bench/probing.py`."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.probing import Prober
from bench.wire import CLIENT, CLIENTS, SYSCTL
from lab.instance import LabError
from lab.nspawn.fleet import AGENT, NspawnFleet
from lab.nspawn.lab import NspawnLab
from lab.nspawn.machine import Machine
from lab.packages import AGENT as AGENT_PACKAGE
from lab.packages import CLI, CONTROLLER, Packages, dpkg, put
from lab.topology import load_topology, unit_cgroup

HERE = Path(__file__).parent
PROBED, OTHER = "probed.service", "other.service"


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace, by path."""

    path: str


@dataclass(frozen=True, slots=True)
class Ends:
    """What a Prober needs of a wire."""

    client: Namespace
    server: Namespace


class Pair(NspawnFleet):
    """Entering installs the packages, enrols the server and has bench/pair/policy in force there: what the probes may
    do is theirs alone, whatever runs."""

    def __init__(self, packages: Packages) -> None:
        super().__init__(NspawnLab(load_topology(HERE / "pair.json"), installed=False), self.install_packages)
        self.packages = packages

    @property
    def server(self) -> Machine:
        return self.machines["server"]

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.wire()
            self.push(HERE / "policy")
            self.await_in_sync()
        except BaseException:
            self.lab.close()
            raise
        return self

    def install_packages(self, machine: Machine) -> None:
        machine.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 0\n", 0o755)  # images of containers forbid it
        names = (AGENT_PACKAGE,) if machine.spec.managed else (CONTROLLER, CLI)
        dpkg(machine, "--install", *put(machine, self.packages, names))

    def start_controller_first_time(self) -> None:
        spec = self.control.spec
        names = [option for name in (spec.name, str(spec.v4), str(spec.v6)) for option in ("--name", name)]
        self.control.check(["segctl", "init", "--listen", "::", *names, "--admin", "alice", "--start"])

    def enrol(self, host: str, token: str = "") -> None:
        command = ["segctl-agent", "enrol", "--start", "--token-file", "-"]
        self.machines[host].check(command, stdin=f"{token or self.token(host)}\n")

    def wire(self) -> None:
        """The client has all addresses of CLIENTS; ends of connections are forgotten soon."""
        self.machines["client"].check(["ip", "route", "add", "local", str(CLIENTS), "dev", "lo"])
        self.server.check(["ip", "route", "add", str(CLIENTS), "via", str(CLIENT)])
        for machine in (self.server, self.machines["client"]):
            settings = [f"net/{name.replace('/v0/', '/host0/')}={value}" for name, value in SYSCTL.items()]
            _in_network(machine, ["sysctl", "-q", "-w", *settings])

    def prober(self, cpu: int = 0) -> Prober:
        client, server = (Namespace(f"/proc/{_leader(self.machines[name])}/ns/net") for name in ("client", "server"))
        probed, other = (str(self.server.cgroup / "payload" / unit_cgroup(unit)) for unit in (PROBED, OTHER))
        return Prober(Ends(client, server), probed, other, cpu)

    def install_version(self, packages: Packages) -> None:
        """Puts another version of the agent in the place of the one that runs, as dpkg does it."""
        dpkg(self.server, "--install", *put(self.server, packages, [AGENT_PACKAGE]))

    def running_version(self) -> str:
        """Of the files that the running agent was loaded from."""
        program = self.server.read(f"/proc/{self.server.main_pid(AGENT)}/cmdline").split("\0")[0]
        return self.server.check([program, "-I", "-c", "import segctl; print(segctl.__version__)"]).strip()


def _leader(machine: Machine) -> int:
    leader = machine.place.leader()
    if leader is None:
        raise LabError(f"the machine {machine.name} is off")
    return leader


def _in_network(machine: Machine, command: Sequence[str]) -> None:
    done = subprocess.run(["nsenter", f"--target={_leader(machine)}", "-n", *command], capture_output=True, check=False)
    if done.returncode:
        raise LabError(f"{machine.name}: {' '.join(command)}: {done.stderr.decode().strip()}")
