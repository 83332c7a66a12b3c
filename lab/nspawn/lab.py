"""A lab of systemd machines on one bridge that lives in a namespace of its own. Use it as a context manager."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.fleet import parallel
from lab.host import LabHost
from lab.instance import BASE, Instance, LabError, is_alive
from lab.netns import SHOP, SWITCH
from lab.nspawn.layers import write_common, write_segctl
from lab.nspawn.machine import Machine, MachinePlace, Storage
from lab.nspawn.units import write_machine
from lab.signals import undisturbed
from lab.topology import HostSpec, Topology, load_topology
from lab.wait import until

HOST_ROOT = Path("/")
"""The base layer that costs nothing: this machine's own root."""

_CUT = """
table bridge lab {
  set alone { type ifname; }
  set apart { type ifname . ifname; }
  chain forward {
    type filter hook forward priority filter
    iifname @alone drop
    oifname @alone drop
    iifname . oifname @apart drop
  }
}
"""
INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
NEEDED_INSTANCES = 8192
"""A systemd and its services take some twenty each, all as the same user of this machine."""


class NspawnLab:
    """Entering boots every machine of the topology; leaving takes everything down, whatever happened in between."""

    def __init__(
        self, topology: Topology | None = None, name: str = "", base: Path = HOST_ROOT, installed: bool = True
    ) -> None:
        """`base`: the root directory of a Debian 12 with systemd and the lab's services. `installed`: this checkout is
        in every machine, in /opt/segctl with its units; no service of it is enabled."""
        self.topology = topology or load_topology(SHOP)
        self.instance = Instance(name)
        self.base, self.installed = base, installed
        self.machines: dict[str, Machine] = {}
        self._switch: LabHost | None = None

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise LabError("the lab makes namespaces and cgroups: run it as root")
        if shutil.which("systemd-nspawn") is None:
            raise LabError("systemd-nspawn not found: run `make system`, or apt-get install systemd-container")
        self.instance.claim()
        try:
            self._raise()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _raise(self) -> None:
        if int(INSTANCES.read_text()) < NEEDED_INSTANCES:
            INSTANCES.write_text(str(NEEDED_INSTANCES))
        self._switch = LabHost(self.instance, SWITCH, {})
        self._switch.ready()
        self._wire(self._switch)
        storage = self._write_layers(self._switch)
        for spec in self.topology.hosts:
            directory = self.instance.directory / "machines" / spec.name
            directory.mkdir(parents=True)
            own = Storage(storage.holder, storage.lower, storage.directory / spec.name)
            write_machine(own.outside(own.upper), spec, self.topology)
            self.machines[spec.name] = Machine(spec, own, self.instance.cgroup / spec.name, directory)
        (self.instance.directory / "machines" / "owner").write_text(str(os.getpid()))
        parallel(Machine.boot, list(self.machines.values()))

    def _wire(self, switch: LabHost) -> None:
        bridge = ["link set lo up", "link add br0 type bridge mcast_snooping 0", "link set br0 up"]
        switch.check(["ip", "-batch", "-"], stdin="\n".join(bridge) + "\n", unit="/init.scope")
        switch.check(["nft", "-f", "-"], stdin=_CUT, unit="/init.scope")

    def _write_layers(self, switch: LabHost) -> Storage:
        layers, keys = self.instance.directory / "layers", self.instance.directory / "keys"
        for directory in (layers, keys):
            directory.mkdir()
        for name in ("id_ed25519", "ssh_host_ed25519_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(keys / name)], check=True
            )
        # overlayfs refuses layers within each other, so none may lie in the base's file system.
        switch.check(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(layers)], unit="/init.scope")
        storage = Storage(switch.place.pid, (), layers)
        write_common(storage.outside(layers / "common"), self.base, self.topology, keys)
        lower = [str(layers / "common"), str(self.base)]
        if self.installed:
            write_segctl(storage.outside(layers / "segctl"))
            lower.insert(0, str(layers / "segctl"))
        return Storage(switch.place.pid, tuple(lower), layers)

    def spec(self, host: str) -> HostSpec:
        return self.topology.host(host)

    def partition(self, host: str, cut: bool, other: str = "") -> None:
        """Take the machine off the network, or put it back; with `other`, only these two do not reach each other. It
        stays so over reboots."""
        assert self._switch is not None
        one, two, verb = _port(host), _port(other), "add" if cut else "delete"
        name, elements = ("apart", f"{one} . {two}, {two} . {one}") if other else ("alone", one)
        self._switch.check(["nft", verb, "element", "bridge", "lab", name, f"{{ {elements} }}"], unit="/init.scope")

    def heal(self) -> None:
        """End every partition."""
        assert self._switch is not None
        flush = "flush set bridge lab alone; flush set bridge lab apart"
        self._switch.check(["nft", flush], unit="/init.scope")

    def close(self) -> None:
        """Kill every process of the lab and remove what it made. May be called twice."""
        with undisturbed():
            self.instance.kill()
            for machine in self.machines.values():
                machine.crash()
            if self._switch is not None:
                self._switch.close()
                self._switch = None
            self.instance.release()
            until("nothing of the lab is left", lambda: not self.instance.remains(), 20)
            self.machines = {}


def _port(host: str) -> str:
    """The switch's end of a machine's network (systemd-nspawn(1), --network-bridge=)."""
    return f"vb-{host}"[:15]


@dataclass(frozen=True, slots=True)
class LivingNspawnLab:
    """A lab that another process raised: `owner` is its process id."""

    owner: int
    directory: Path
    places: dict[str, MachinePlace]

    def place(self, host: str) -> MachinePlace:
        if host not in self.places:
            raise LabError(f"no machine {host}; there are {', '.join(sorted(self.places))}")
        return self.places[host]


def find_nspawn_lab(name: str) -> LivingNspawnLab | None:
    """The lab called `name`, or None when none of that name is up."""
    machines = Instance(name)
    directory = machines.directory / "machines"
    if not is_alive(BASE / name) or not (directory / "owner").exists():
        return None
    places = {
        path.name: MachinePlace(path.name, path / "pid", machines.cgroup / path.name)
        for path in sorted(directory.iterdir())
        if path.is_dir()
    }
    return LivingNspawnLab(int((directory / "owner").read_text()), BASE / name, places)
