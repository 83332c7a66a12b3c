"""Who accepts connections on this host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path

from segctl_agent.facts.cgroups import CGROUP_ROOT
from segctl_agent.facts.processes import find_holder, process_name
from segctl_agent.facts.sockdiag import SockDiag, SocketInfo
from segctl_agent.facts.values import ListenerFact

MAX_LISTENERS = 1024
LOOKUP_SECONDS = 0.5
"""For the names of processes, of all listeners together: 1000 listeners among 14,000 open files of one user would keep
a core busy for a minute. Those that remain are told without a name."""


def read_listeners(
    cgroup_paths: Mapping[int, str],
    root: Path = CGROUP_ROOT,
    limit: int = MAX_LISTENERS,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[ListenerFact, ...]:
    """TCP listeners and unconnected UDP sockets, sorted by protocol, port and address; the first `limit` of them, TCP
    before UDP. `cgroup_paths` maps a cgroup's id to its path below `root`. KernelError when sock_diag fails."""
    with SockDiag() as diag:
        found = sorted(islice(unique(diag.listeners()), limit), key=_order)
    until = clock() + LOOKUP_SECONDS
    return tuple(_fact(info, cgroup_paths, root, named=clock() < until) for info in found)


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


def _fact(info: SocketInfo, cgroup_paths: Mapping[int, str], root: Path, *, named: bool) -> ListenerFact:
    path = cgroup_paths.get(info.cgroup, "")
    # The root cgroup (no path) also holds every kernel thread: not worth the scan.
    holder = find_holder(info.inode, root / path) if path and named else None
    process = process_name(holder.pid) if holder is not None and holder.pid else ""
    return ListenerFact(info.protocol, info.address, info.port, info.uid, info.inode, path, process)
