"""Machines that `vagrant up` raised, with everything in them (vagrant/Vagrantfile). The driver leaves them up."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from types import TracebackType
from typing import Self

from lab.host import REPOSITORY
from lab.instance import LabError
from lab.topology import Topology
from lab.vm.fleet import MachineDriver
from lab.vm.qemu import STORE, TCG_SLOWDOWN
from lab.vm.remote import ONE_CONNECTION, RemoteHost

FOLDER = REPOSITORY / "vagrant"
LIBVIRTD = FOLDER / "box" / "libvirtd.sh"
MANAGEMENT = ("192.168.121.0/24", "10.0.2.0/24")
"""As in the Vagrantfile."""


class VagrantDriver(MachineDriver):
    """Uses the libvirtd of vagrant/box/libvirtd.sh when that one runs, else this machine's."""

    name = "vagrant"

    def __init__(self, topology: Topology) -> None:
        super().__init__(topology)
        slow = os.environ.get("SEGCTL_VM_DRIVER") == "qemu"
        self.slow, self.patience = (TCG_SLOWDOWN, 10.0) if slow else (1.0, 2.5)
        self._enter = (str(LIBVIRTD), "run") if (STORE / "libvirt" / "pid").exists() else ()

    @property
    def management(self) -> tuple[str, ...]:
        return MANAGEMENT

    def __enter__(self) -> Self:
        config = FOLDER / ".vagrant" / "ssh-config"
        names = [host.name for host in self.topology.hosts]
        config.write_text(self._vagrant("ssh-config", *names))
        options = [*ONE_CONNECTION, "-o", f"ControlPath={config.parent}/%n"]
        for name in names:
            self.machines[name] = RemoteHost(name, (*self._enter, "ssh", "-F", str(config), *options, name), ("sudo",))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _vagrant(self, *arguments: str) -> str:
        command = [*self._enter, "vagrant", *arguments]
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LabError(f"vagrant {shlex.join(arguments)}: {done.stderr.strip()}; `vagrant up` first")
        return done.stdout

    def partition(self, host: str, cut: bool) -> None:
        """By the cable of the lab's interface, which is the machine's second. libvirt only."""
        domain = f"{FOLDER.name}_{host}"
        listed = self._virsh("domiflist", domain)
        interfaces = [line.split()[4] for line in listed.splitlines() if re.search(r"\bsegctl-lab\b", line)]
        if not interfaces:
            raise LabError(f"{domain} has no interface on segctl-lab:\n{listed}")
        self._virsh("domif-setlink", domain, interfaces[0], "down" if cut else "up")

    def _virsh(self, *arguments: str) -> str:
        command = [*self._enter, "virsh", "--connect", "qemu:///system", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LabError(f"virsh {shlex.join(arguments)}: {done.stderr.strip()}")
        return done.stdout
