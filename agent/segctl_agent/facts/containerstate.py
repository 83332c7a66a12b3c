"""What is true of a running container: its name from its runtime's files, its network from /proc. Reads, never enters.

The files are root's (DAC_READ_SEARCH) and the links of another's process need SYS_PTRACE: the agent has both. All of it
is bounded, and what is not as expected reads as "not known yet".
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from segctl_agent.facts.containers import (
    ContainerRef,
    Network,
    docker_name,
    ipv4_addresses,
    ipv6_addresses,
    is_container_bridge,
    oci_name,
    onlink_networks,
    routed_here,
    storage_names,
)
from segctl_agent.facts.values import Address

_MOST_BYTES = 4 << 20
_MOST_PROC_BYTES = 1 << 20
_MOST_PIDS = 8
_MOST_ADDRESSES = 64
"""Of one container. Who may configure its network may give it thousands: then none counts, and it stays closed."""
_CHILDREN = ("container", "init.scope")
"""Where a runtime that gives the container its own subtree puts the processes: crun below podman's scope; systemd."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are; a test says otherwise."""

    root: Path = Path("/")
    proc: Path = Path("/proc")
    interfaces: Path = Path("/sys/class/net")


@dataclass(frozen=True, slots=True)
class Reading:
    """What could be learned. `name` is "" while its runtime has not written it, `network` None while the container has
    no process; 0 is the host's own network."""

    name: str = ""
    network: int | None = None
    addresses: tuple[Address, ...] = ()

    @property
    def complete(self) -> bool:
        """Nothing more is to come soon. The runtime's own process is in the cgroup before it enters the network, so a
        container in the host's network may only seem to be there."""
        return bool(self.name) and bool(self.addresses)


class ContainerReader:
    """Reads containers by their cgroups below `cgroup_root`."""

    def __init__(self, cgroup_root: Path, places: Places | None = None) -> None:
        self._cgroups = cgroup_root
        self._places = places or Places()
        self._storage: dict[Path, tuple[tuple[int, int, int], dict[str, str]]] = {}

    def read(self, refs: Iterable[ContainerRef]) -> list[Reading]:
        """One for each. Never raises for what is missing or malformed."""
        host, networks = self._network_of("self"), self._networks()
        return [self._read(ref, host, networks) for ref in refs]

    def _read(self, ref: ContainerRef, host: int | None, networks: tuple[Network, ...]) -> Reading:
        name = self._name(ref)
        for pid in self._pids(ref.cgroup):
            network = self._network_of(str(pid))
            addresses = self._addresses(pid) if network != host else frozenset()
            if network is None or pid not in self._pids(ref.cgroup):  # it has ended, and its number may be another's
                continue
            if network == host:
                return Reading(name, 0)
            return Reading(name, network, routed_here(addresses, networks) if len(addresses) <= _MOST_ADDRESSES else ())
        return Reading(name)

    def bridges(self) -> tuple[str, ...]:
        """The interfaces that are bridges of container networks, sorted."""
        return tuple(sorted(n for n in self._interfaces() if is_container_bridge(n) and self._is_bridge(n)))

    def _name(self, ref: ContainerRef) -> str:
        if ref.runtime in ("docker", ""):
            text = self._text(f"var/lib/docker/containers/{ref.id}/config.v2.json")
            if text and (name := docker_name(text)):
                return name
        if ref.runtime in ("podman", "cri-o", ""):
            for path in (
                "var/lib/containers/storage/overlay-containers/containers.json",
                "run/containers/storage/overlay-containers/volatile-containers.json",
                "var/lib/containers/storage/overlay-containers/volatile-containers.json",
            ):
                if name := self._stored(self._places.root / path).get(ref.id, ""):
                    return name
        if ref.runtime in ("containerd", ""):
            bundles = "run/containerd/io.containerd.runtime.v2.task"
            for namespace in ("k8s.io", "default", "moby"):
                text = self._text(f"{bundles}/{namespace}/{ref.id}/config.json")
                if text and (name := oci_name(text)):
                    return name
        return ""

    def _stored(self, path: Path) -> dict[str, str]:
        """One file names every container: it is read again when it was written anew."""
        try:
            status = path.lstat()
        except OSError:
            return {}
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._storage.get(path)
        if known is None or known[0] != version:
            known = (version, storage_names(_bounded(path, _MOST_BYTES)))
            self._storage[path] = known
        return known[1]

    def _text(self, path: str) -> bytes:
        return _bounded(self._places.root / path, _MOST_BYTES)

    def _pids(self, cgroup: str) -> Iterator[int]:
        for where in (self._cgroups / cgroup, *(self._cgroups / cgroup / c for c in _CHILDREN)):
            # A threaded cgroup tells its threads only.
            told = _bounded(where / "cgroup.procs", 4096) or _bounded(where / "cgroup.threads", 4096)
            for line in told.split()[:_MOST_PIDS]:
                if line != b"0":  # of another pid namespace
                    yield int(line)

    def _network_of(self, pid: str) -> int | None:
        try:
            return (self._places.proc / pid / "ns" / "net").stat().st_ino
        except OSError:  # it has ended
            return None

    def _addresses(self, pid: int) -> frozenset[Address]:
        net = self._places.proc / str(pid) / "net"
        four = ipv4_addresses(_bounded(net / "fib_trie", _MOST_PROC_BYTES).decode("ascii", "replace"))
        six = ipv6_addresses(_bounded(net / "if_inet6", _MOST_PROC_BYTES).decode("ascii", "replace"))
        return frozenset((*four, *six))

    def _networks(self) -> tuple[Network, ...]:
        net = self._places.proc / "self" / "net"
        four, six = (_bounded(net / n, _MOST_PROC_BYTES).decode("ascii", "replace") for n in ("route", "ipv6_route"))
        return onlink_networks(four, six, (n for n in self._interfaces() if self._is_bridge(n) or self._is_veth(n)))

    def _interfaces(self) -> list[str]:
        try:
            return os.listdir(self._places.interfaces)  # noqa: PTH208  names are what is wanted
        except OSError:
            return []

    def _is_bridge(self, interface: str) -> bool:
        return (self._places.interfaces / interface / "bridge").is_dir()

    def _is_veth(self, interface: str) -> bool:
        """An interface with its other end elsewhere, and of no kind that the kernel names (vlan, macvlan)."""
        where = self._places.interfaces / interface
        index, link = (_bounded(where / n, 64).strip() for n in ("ifindex", "iflink"))
        return bool(index) and index != link and b"DEVTYPE=" not in _bounded(where / "uevent", 4096)


def _bounded(path: Path, most: int) -> bytes:
    """A file of at most `most` bytes; nothing when there is none, it is larger, or it is no regular file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return b""
            data = b""
            while len(data) <= most and (part := file.read(1 << 16)):
                data += part
        except OSError:
            return b""
        return data if len(data) <= most else b""
