"""The sockets of flows on this host, and the workloads of sockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from segctl.model.policy import HOST_WORKLOAD

from segctl_agent.facts.sockdiag import TCP_LISTEN, SockDiag, SocketInfo
from segctl_agent.flows.live import End, LiveFlow
from segctl_agent.flows.values import PROTOCOL_NAMES
from segctl_agent.identity import Direction, Identity

WorkloadOfSocket = Callable[[Direction, SocketInfo], str | None]


class LocalSocket(NamedTuple):
    """A flow's socket on this host, and the tuple by which it was found."""

    info: SocketInfo
    local: End
    remote: End

    @property
    def own(self) -> bool:
        """It serves this flow alone. A UDP socket without a peer serves others too."""
        return self.info.protocol == "tcp" or bool(self.info.remote_port)


def find_socket(flow: LiveFlow, diag: SockDiag) -> LocalSocket | None:
    """The socket of this flow, None where there is none here. Raises KernelError.

    The kernel's lookup falls through to a listener: that is no answer."""
    name = PROTOCOL_NAMES.get(flow.row.protocol)
    if name not in ("tcp", "udp"):
        return None
    for local, remote in flow.socket_ends():
        found = diag.find(name, *local, *remote)
        if found is not None and (name == "udp" or found.state != TCP_LISTEN):
            return LocalSocket(found, local, remote)
    return None


class SocketPlaces:
    """Which workload a socket belongs to, as the kernel's identity chains place it. `path_of` gives the path of a
    cgroup id below the root, None for an unknown one; from a thread, CgroupWatcher.known_path."""

    def __init__(self, identity: Callable[[], Identity | None], path_of: Callable[[int], str | None]) -> None:
        self._identity, self._path_of = identity, path_of

    def __call__(self, direction: Direction, found: SocketInfo) -> str | None:
        identity = self._identity()
        path = self._path_of(found.cgroup) if found.cgroup else None
        if identity is None or path is None:
            return None
        place = identity.place(path)
        name = HOST_WORKLOAD if place.by_user and direction == "out" else place.workload
        if name != HOST_WORKLOAD or direction == "in":
            return name
        # sock_diag tells no group: where the policy names one, a socket of `host` may be that group's.
        return identity.users.get(found.uid, None if identity.groups else HOST_WORKLOAD)
