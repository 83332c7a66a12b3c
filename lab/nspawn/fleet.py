"""A fleet of systemd machines: segctl installed, a controller, every managed machine enrolled over a join token."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab.administrator import HostAdministrator
from lab.fleet import Answer, parallel
from lab.instance import LabError
from lab.nspawn.lab import NspawnLab
from lab.nspawn.machine import Machine
from lab.topology import Topology
from lab.wait import until

AGENT, AGENT_BOOT, CONTROLLER = "segctl-agent.service", "segctl-agent-boot.service", "segctl-controller.service"
PROGRAM = ("/usr/bin/python3", "-I", "-S", "/opt/lab/programs.py")
OPERATOR = Path("/root/.config/segctl")
CONTROLLER_STATE = "/var/lib/segctl-controller"


def install_checkout(machine: Machine) -> None:
    """The files are there already (`NspawnLab(installed=True)`); this is what a package's postinst does."""
    machine.check(["systemd-sysusers"])
    machine.check(["systemd-tmpfiles", "--create", "segctl.conf"])


class NspawnFleet(HostAdministrator):
    """Entering boots the lab, installs, starts the controller and enrols every managed host; nothing is pushed yet.
    `install` is called with each machine that needs segctl, for a controller, an agent or both."""

    segctl_path = "segctl"

    def __init__(self, lab: NspawnLab | None = None, install: Callable[[Machine], None] = install_checkout) -> None:
        self.lab = lab or NspawnLab()
        self.install = install

    def __enter__(self) -> Self:
        self.lab.__enter__()
        try:
            parallel(self.install, [self.control, *(self.machines[host.name] for host in self.topology.managed)])
            self.start_controller_first_time()
            parallel(self.enrol, [host.name for host in self.topology.managed])
        except BaseException:
            self.lab.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lab.close()

    @property
    def machines(self) -> dict[str, Machine]:
        return self.lab.machines

    @property
    def topology(self) -> Topology:
        return self.lab.topology

    @property
    def control(self) -> Machine:
        return self.machines[self.topology.controller]

    @property
    def control_host(self) -> Machine:
        return self.control

    @property
    def admin_directory(self) -> Path:
        return OPERATOR

    def start_controller_first_time(self) -> None:
        """As docs/operations.md says."""
        spec, out = self.control.spec, f"{CONTROLLER_STATE}/alice"
        names = [option for name in (spec.name, str(spec.v4), str(spec.v6)) for option in ("--name", name)]
        init = ["segctl-controller", "init", "--state", CONTROLLER_STATE, "--listen", "::", *names]
        self.control.check(["runuser", "-u", "segctl", "--", *init, "--admin", "alice", "--admin-out", out])
        self.control.systemctl("enable", "--now", CONTROLLER)
        self.control.check(["install", "-d", "-m", "700", str(OPERATOR)])
        self.control.check(["sh", "-c", f"install -m 600 {out}/* {OPERATOR}/ && rm -r {out}"])

    def enrol(self, host: str, token: str = "") -> None:
        """Enrol a host of the topology and start its agent, with a fresh token unless one is given."""
        machine = self.machines[host]
        command = ["segctl-agent", "enrol", "--token-file", "-"]
        machine.check(command, stdin=f"{token or self.token(host)}\n")
        machine.systemctl("enable", "--now", AGENT_BOOT, AGENT)

    def push(self, policy: Path, *options: str) -> list[dict[str, Any]]:
        """Push a policy directory of this machine and wait for every host's proof."""
        return super().push(self._brought(policy), *options)

    def push_unchecked(self, policy: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """The same, however it ends."""
        return self.segctl("push", str(self._brought(policy)), "--yes", "--watch", "0", *options)

    def _brought(self, policy: Path) -> Path:
        there = Path("/root/policy")
        put_directory(self.control, policy, there)
        return there

    def host(self, name: str) -> dict[str, Any]:
        """What `segctl status` says of a host."""
        return next(one for one in self.document("status")["hosts"] if one["name"] == name)

    def reach(
        self, source: str, destination: str, port: int, unit: str = "", family: str = "4", seconds: float = 2.5
    ) -> Answer:
        """Whether a new process of `source` gets a TCP connection. In the cgroup of `unit`, where one is named; real
        services are better asked to connect themselves."""
        command = [*PROGRAM, "reach", destination, str(port), "--family", family, "--timeout", str(seconds)]
        done = self.machines[source].run(command, unit=unit)
        if done.returncode not in (0, 1) or done.stderr:
            raise LabError(f"the client on {source} failed: {done.stderr}")
        return Answer(done.returncode == 0, done.stdout.strip())

    def fetch(self, source: str, url: str, seconds: float = 10.0) -> Answer:
        """What curl(1) on `source` gets; open when the answer is 200."""
        command = ["curl", "-sS", "--noproxy", "*", "--max-time", f"{seconds:g}", "-w", "\n%{http_code}", url]
        done = self.machines[source].run(command)
        body, _, code = done.stdout.rpartition("\n")
        return Answer(code == "200", body.strip() or done.stderr.strip())

    def denied(self, host: str, **wanted: Any) -> dict[str, Any]:  # noqa: ANN401 - compared with what JSON has
        """Wait for a denial that `host` tells, with these values; keys of its process begin with "process_"."""

        def found() -> dict[str, Any] | None:
            for one in self.records("denied", "--host", host):
                process = {f"process_{key}": value for key, value in (one.get("process") or {}).items()}
                if wanted.items() <= {**one, **process}.items():
                    return one
            return None

        told = until(f"{host} tells a denial with {wanted}", found, 10, every=0.2)
        assert told is not None
        return told

    def logs(self, lines: int = 40) -> str:
        """The last lines of every daemon's journal, for a report of a failure."""
        parts = [f"--- {self.control.name}\n{self.control.journal(CONTROLLER, lines=lines)}"]
        for host in self.topology.managed:
            machine = self.machines[host.name]
            parts.append(f"--- {host.name}\n{machine.journal(AGENT, lines=lines) if machine.running else 'off'}")
        return "\n".join(parts)


def put_directory(machine: Machine, source: Path, target: Path) -> None:
    """Make `target` in the machine what the directory `source` is."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(source, arcname=".", filter=_as_root)
    name = f"/run/{target.name}.tar"
    machine.write(name, archive.getvalue())
    machine.check(["sh", "-c", f"rm -rf {target} && mkdir -p {target} && tar -xf {name} -C {target} && rm {name}"])


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    return member
