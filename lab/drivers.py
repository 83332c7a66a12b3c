"""The drivers there are, by name; which hosts of a topology are wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lab.driver import Driver
from lab.namespaces import NamespaceDriver
from lab.netns import SHOP
from lab.topology import Topology, TopologyError, load_topology
from lab.vm.qemu import QemuDriver
from lab.vm.vagrant import VagrantDriver

DRIVERS: dict[str, Callable[[Topology], Driver]] = {
    "netns": NamespaceDriver,
    "qemu": QemuDriver,
    "vagrant": VagrantDriver,
}


def chosen(hosts: str) -> Topology:
    """The shop, or only those of its hosts that are named ("ctl,web1,api1"; the controller's must be among them).
    Raises TopologyError."""
    topology = load_topology(SHOP)
    if not hosts:
        return topology
    names = hosts.split(",")
    for name in names:
        topology.host(name)
    if topology.controller not in names:
        raise TopologyError(f"the hosts {hosts} lack {topology.controller}, where the controller is: add it")
    return replace(topology, hosts=tuple(host for host in topology.hosts if host.name in names))
