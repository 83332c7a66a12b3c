"""Who accepts connections on this host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

from segctl_agent.facts.cgroups import CGROUP_ROOT
from segctl_agent.facts.processes import find_holder, process_name
from segctl_agent.facts.sockdiag import SockDiag, SocketInfo
from segctl_agent.facts.values import ListenerFact

MAX_LISTENERS = 1024


def read_listeners(
    cgroup_paths: Mapping[int, str], root: Path = CGROUP_ROOT, limit: int = MAX_LISTENERS
) -> tuple[ListenerFact, ...]:
    """TCP listeners and unconnected UDP sockets, sorted by protocol, port and address; the first `limit` of them, TCP
    before UDP. `cgroup_paths` maps a cgroup's id to its path below `root`. KernelError when sock_diag fails."""
    with SockDiag() as diag:
        found = sorted(islice(unique(diag.listeners()), limit), key=_order)
    return tuple(_fact(info, cgroup_paths, root) for info in found)


def unique(listeners: Iterable[SocketInfo]) -> Iterable[SocketInfo]:
    """Sockets that share a port (SO_REUSEPORT) in one cgroup of one user are one listener."""
    seen = set()
    for info in listeners:
        key = (info.protocol, info.address, info.port, info.uid, info.cgroup)
        if key not in seen:
            seen.add(key)
            yield info


def _order(info: SocketInfo) -> tuple[str, int, int, bytes, int]:
    return info.protocol, info.port, info.address.version, info.address.packed, info.inode


def _fact(info: SocketInfo, cgroup_paths: Mapping[int, str], root: Path) -> ListenerFact:
    path = cgroup_paths.get(info.cgroup, "")
    # The root cgroup (no path) also holds every kernel thread: not worth the scan.
    holder = find_holder(info.inode, root / path) if path else None
    process = process_name(holder.pid) if holder is not None and holder.pid else ""
    return ListenerFact(info.protocol, info.address, info.port, info.uid, info.inode, path, process)
