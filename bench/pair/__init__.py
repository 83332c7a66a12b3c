"""A server and its client as systemd machines with segctl's Debian packages."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

from bench.nspawn_probing import probe_policy, probing
from bench.probing import Prober
from lab.nspawn.fleet import AGENT, NspawnFleet
from lab.nspawn.lab import NspawnLab
from lab.nspawn.machine import Machine
from lab.packages import AGENT as AGENT_PACKAGE
from lab.packages import CLI, CONTROLLER, Packages, dpkg, put
from lab.topology import load_topology

HERE = Path(__file__).parent


class Pair(NspawnFleet):
    """Entering installs the packages, enrols the server and has a policy in force there that permits what the probes of
    bench/native/probes.c may do, and nothing else."""

    def __init__(self, packages: Packages) -> None:
        super().__init__(NspawnLab(load_topology(HERE / "pair.json"), installed=False), self.install_packages)
        self.packages = packages

    @property
    def server(self) -> Machine:
        return self.machines["server"]

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            with tempfile.TemporaryDirectory() as folder:
                self.push(probe_policy(HERE / "policy", Path(folder) / "policy"))
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

    def probing(self) -> AbstractContextManager[Prober]:
        return probing(self, "server", "client")

    def install_version(self, packages: Packages) -> None:
        """Puts another version of the agent in the place of the one that runs, as dpkg does it."""
        dpkg(self.server, "--install", *put(self.server, packages, [AGENT_PACKAGE]))

    def running_version(self) -> str:
        """Of the files that the running agent was loaded from."""
        program = self.server.read(f"/proc/{self.server.main_pid(AGENT)}/cmdline").split("\0")[0]
        return self.server.check([program, "-I", "-c", "import segctl; print(segctl.__version__)"]).strip()
