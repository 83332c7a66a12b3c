"""What the controller sends to one host: its part of a generation, addresses resolved, processes still by name.

The agent's kernel state is a function of this value and of what is true on the host (cgroups, own addresses, users).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from segctl.model.addresses import AddressSet
from segctl.model.policy import Answer, Essentials, Mode, Network, PortRange, Process


@dataclass(frozen=True, slots=True)
class Group:
    """A named set of remote addresses: `hosts` are single ones, `networks` wider ones, disjoint and sorted.

    Networks of one address that are given in `networks` are moved to `hosts`, so equal groups are equal values.
    """

    name: str
    networks: tuple[Network, ...] = ()
    hosts: AddressSet = field(default_factory=AddressSet)

    def __post_init__(self) -> None:
        single = [n.network_address for n in self.networks if n.prefixlen == n.max_prefixlen]
        if single:
            object.__setattr__(self, "networks", tuple(n for n in self.networks if n.prefixlen < n.max_prefixlen))
            object.__setattr__(self, "hosts", self.hosts.changed(single) if len(self.hosts) else AddressSet.of(single))

    def __len__(self) -> int:
        return len(self.networks) + len(self.hosts)

    def __contains__(self, address: object) -> bool:
        return address in self.hosts or any(address in n for n in self.networks)


@dataclass(frozen=True, slots=True)
class Entry:
    """Rule `rule` permits `ports` with the remote addresses of group `group`.

    `managed` tells whether the group holds enrolled hosts, or peers: peers never match an enrolled host's address.
    `until` is the Unix time in seconds from which on it permits nothing more; 0 when it has no end.
    """

    rule: str
    group: str
    ports: tuple[PortRange, ...]
    managed: bool
    until: int = 0


@dataclass(frozen=True, slots=True)
class LocalWorkload:
    """A workload on this host. `process` is None for the workload `host`: everything that is not named.

    `outgoing` and `incoming` are what a denied application sees of its own connections and of those to it.
    """

    name: str
    process: Process | None
    mode: Mode
    ingress: tuple[Entry, ...] = ()
    egress: tuple[Entry, ...] = ()
    outgoing: Answer = Answer.REJECT
    incoming: Answer = Answer.DROP


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """The desired state of one host.

    `workloads` are sorted by name and always hold the workload `host`. `managed` are the addresses of enrolled hosts
    that fall into networks of this host's peer groups: they are kept out of them in the kernel.
    """

    host: str
    generation: int
    policy_digest: str
    workloads: tuple[LocalWorkload, ...]
    groups: tuple[Group, ...] = ()
    managed: AddressSet = field(default_factory=AddressSet)
    essentials: Essentials = field(default_factory=Essentials)

    def entries(self) -> Iterator[Entry]:
        for workload in self.workloads:
            yield from workload.ingress
            yield from workload.egress

    @property
    def enforcing(self) -> bool:
        return any(w.mode is Mode.ENFORCE for w in self.workloads)
