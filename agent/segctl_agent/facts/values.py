"""What is true on this host: frozen values, the second input of `render` beside the HostPolicy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the controller listens."""

    address: Address
    port: int


@dataclass(frozen=True, slots=True)
class ContainerFact:
    """A running container whose name is known. `cgroup` is its path, `id` its 64 hexadecimal digits.

    network: the inode of its own network namespace; 0 when it shares the host's. addresses: of its own network, sorted,
    without loopback and link-local ones, and only such as this host routes to a bridge or veth of its own.
    """

    id: str
    name: str
    cgroup: str
    network: int = 0
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class HostFacts:
    """cgroups: path below the cgroup2 root (no leading slash, the root itself left out) -> cgroup id (inode number).
    departed: cgroups that are gone, (path, id): sockets outlive the cgroup they were made in, and an id is never used
    again. users: the names that the policy's user workloads name -> uid; a name this host does not know is left out.
    addresses: this host's own, loopback and link-local included. containers: sorted by cgroup. bridges: the interfaces
    of container networks by name, sorted."""

    cgroups: Mapping[str, int] = field(default_factory=dict)
    users: Mapping[str, int] = field(default_factory=dict)
    addresses: frozenset[Address] = frozenset()
    controller: tuple[Endpoint, ...] = ()
    agent_uid: int = 0
    departed: tuple[tuple[str, int], ...] = ()
    containers: tuple[ContainerFact, ...] = ()
    bridges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ListenerFact:
    """A socket that accepts: from sock_diag. `cgroup` is the path when it is known."""

    protocol: str
    address: Address
    port: int
    uid: int
    inode: int
    cgroup: str
    process: str = ""
