"""A lab: hosts on one bridge that lives in a namespace of its own. Use it as a context manager."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.accounts import write_etc
from lab.host import LabHost, Place
from lab.instance import BASE, Instance, LabError, is_alive
from lab.signals import undisturbed
from lab.topology import HostSpec, Topology, load_topology
from lab.units import Units

SHOP = Path(__file__).resolve().parent / "shop.json"
SWITCH = "switch"


class Lab:
    """Entering raises the hosts and starts their units; leaving takes everything down, whatever happened in between."""

    def __init__(self, topology: Topology | None = None, name: str = "") -> None:
        self.topology = topology or load_topology(SHOP)
        self.instance = Instance(name)
        self.hosts: dict[str, LabHost] = {}
        self.units: dict[str, Units] = {}

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise LabError("the lab makes namespaces and cgroups: run it as root")
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
        etc = write_etc(self.instance.directory / "etc", self.topology)
        for name in (SWITCH, *(host.name for host in self.topology.hosts)):
            self.hosts[name] = LabHost(self.instance, name, etc)
        for host in self.hosts.values():
            host.ready()
        self._wire()
        for spec in self.topology.hosts:
            self.units[spec.name] = Units(self.hosts[spec.name])
            self.units[spec.name].start_all(spec.units)
        self._write_places()

    def _wire(self) -> None:
        bridge = ["link set lo up", "link add br0 type bridge mcast_snooping 0", "link set br0 up"]
        for host in self.topology.hosts:
            bridge.append(f"link add name {host.name} type veth peer name eth0 netns {self.hosts[host.name].place.pid}")
            bridge.append(f"link set dev {host.name} master br0 up")
        self._ip(SWITCH, bridge)
        for host in self.topology.hosts:
            self._ip(
                host.name,
                [
                    "link set lo up",
                    f"addr add {host.v4}/{self.topology.prefix_v4} dev eth0",
                    f"addr add {host.v6}/{self.topology.prefix_v6} dev eth0 nodad",
                    "link set eth0 up",
                ],
            )

    def _ip(self, host: str, commands: list[str]) -> None:
        self.hosts[host].check(["ip", "-batch", "-"], stdin="\n".join(commands) + "\n", unit="/init.scope")

    def spec(self, host: str) -> HostSpec:
        return self.topology.host(host)

    def partition(self, host: str, cut: bool) -> None:
        """Take the host's switch port down, or up again."""
        self._ip(SWITCH, [f"link set dev {host} {'down' if cut else 'up'}"])

    def cut(self, source: str, destination: str) -> None:
        """Nothing more passes the switch from one host to the other, whatever passes the other way."""
        rule = f"add rule bridge cuts forward iifname {source} oifname {destination} drop"
        chain = "add chain bridge cuts forward { type filter hook forward priority filter; }"
        self._nft_at_switch(f"add table bridge cuts\n{chain}\n{rule}\n")

    def mend(self) -> None:
        """Undo every `cut`."""
        self._nft_at_switch("add table bridge cuts\ndelete table bridge cuts\n")

    def _nft_at_switch(self, text: str) -> None:
        self.hosts[SWITCH].check(["nft", "-f", "-"], stdin=text, unit="/init.scope")

    def add_address(self, host: str, address: str) -> None:
        """Give the host one more address, "10.77.1.12" or "fd77:0:1::12"."""
        prefix = (
            f"{self.topology.prefix_v6} dev eth0 nodad" if ":" in address else f"{self.topology.prefix_v4} dev eth0"
        )
        self._ip(host, [f"addr add {address}/{prefix}"])

    def remove_address(self, host: str, address: str) -> None:
        prefix = self.topology.prefix_v6 if ":" in address else self.topology.prefix_v4
        self._ip(host, [f"addr del {address}/{prefix} dev eth0"])

    def _write_places(self) -> None:
        hosts = {name: {"pid": host.place.pid, "cgroup": host.place.cgroup} for name, host in self.hosts.items()}
        with tempfile.NamedTemporaryFile("w", dir=self.instance.directory, delete=False) as file:
            json.dump({"owner": os.getpid(), "hosts": hosts}, file)
        Path(file.name).rename(self.instance.directory / "places.json")

    def close(self) -> None:
        """Kill every process of the lab and remove what it made. May be called twice."""
        with undisturbed():
            self.instance.kill()
            for units in self.units.values():
                units.reap()
            for host in self.hosts.values():
                host.close()
            self.instance.release()
            self.hosts, self.units = {}, {}


@dataclass(frozen=True, slots=True)
class LivingLab:
    """A lab that another process raised: `owner` is its process id."""

    owner: int
    directory: Path
    places: dict[str, Place]

    def place(self, host: str) -> Place:
        if host not in self.places:
            raise LabError(f"no host {host}; there are {', '.join(sorted(set(self.places) - {SWITCH}))}")
        return self.places[host]


def find_lab(name: str) -> LivingLab | None:
    """The lab called `name`, or None when none of that name is up."""
    directory = BASE / name
    path = directory / "places.json"
    if not is_alive(directory) or not path.exists():
        return None
    data = json.loads(path.read_text())
    places = {host: Place(host, **entry) for host, entry in data["hosts"].items()}
    return LivingLab(data["owner"], directory, places)
