"""Random policies over the fleet of `fleet`: small vocabularies, so that rules, boundaries and workloads meet often."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from random import Random

from segctl.model.inventory import Address, Host, Inventory
from segctl.model.policy import (
    ANY_PEER,
    HOST_WORKLOAD,
    Boundary,
    Essentials,
    Mode,
    ModeRule,
    Peer,
    Policy,
    PortRange,
    Process,
    ProcessKind,
    Rule,
    Selector,
    Tags,
    Workload,
)

NOW = datetime(2027, 3, 1, tzinfo=UTC)
_TAGS = {"role": ("web", "db"), "env": ("dev", "prod"), "app": ("shop",)}
_PROCESSES = (
    Process(ProcessKind.UNIT, "a.service"),
    Process(ProcessKind.UNIT, "db@*.service"),
    Process(ProcessKind.UNIT, "[ad]*.service"),
    Process(ProcessKind.UNIT, "session-1.scope"),
    Process(ProcessKind.UNIT, "system-db.slice"),
    Process(ProcessKind.UNIT, "app.slice"),
    Process(ProcessKind.UNIT, "sys*.slice"),
    Process(ProcessKind.UNIT, "*.socket"),
    Process(ProcessKind.CGROUP, "app.slice"),
    Process(ProcessKind.CGROUP, "app.slice/*.service/inner"),
    Process(ProcessKind.CGROUP, "system.slice/*/db@1.service"),
    Process(ProcessKind.CGROUP, "*/a.service"),
    Process(ProcessKind.USER, "www-data"),
    Process(ProcessKind.USER, "33"),
    Process(ProcessKind.USER, "0"),
    Process(ProcessKind.GROUP, "www-data"),
    Process(ProcessKind.GROUP, "0"),
    Process(ProcessKind.EXECUTABLE, "/usr/bin/a"),
    Process(ProcessKind.EXECUTABLE, "/usr/bin/b"),
)
# 10.77.0 to 10.77.2 are hosts, 10.77.3 is the stranger.
_PEERS = {
    "stranger": ("10.77.3.0/24", "fd77::3:0/112"),
    "few": ("10.77.3.10/32", "10.77.3.11/32", "fd77::3:11/128"),
    "single": ("10.77.1.10/32", "10.77.3.11/32", "fd77::1:10/128"),
    "mixed": ("10.77.3.12/31", "10.77.3.14/32", "10.77.1.10/32", "fd77::/64"),
    "wide": ("10.0.0.0/8",),
}
_PORTS = (
    PortRange("tcp", 22, 22),
    PortRange("tcp", 53, 53),
    PortRange("tcp", 80, 80),
    PortRange("tcp", 80, 81),
    PortRange("tcp", 0, 65535),
    PortRange("tcp", 100, 500),
    PortRange("udp", 53, 53),
    PortRange("udp", 1, 100),
    PortRange("udp", 0, 65535),
    PortRange("icmp", 8, 8),
    PortRange("icmp", 0, 255),
    PortRange("icmpv6", 120, 130),
    PortRange("icmpv6", 128, 128),
)


class RandomPolicies:
    """Draws policies and inventories from one seed."""

    def __init__(self, seed: int, hosts: Sequence[tuple[Address, ...]]) -> None:
        self._random = Random(seed)
        self._hosts = hosts

    def draw(self) -> tuple[Policy, Inventory]:
        pick = self._random
        workloads = {f"w{i}": self._workload(f"w{i}") for i in range(pick.randint(0, 4))}
        modes = [ModeRule(Selector(), Mode.ENFORCE)] if pick.random() < 0.6 else []
        modes += [ModeRule(self._selector(workloads), pick.choice(list(Mode))) for _ in range(pick.randint(0, 2))]
        boundaries = tuple(Boundary(f"b{i}", *self._ends(workloads)) for i in range(pick.choice((0, 0, 1, 2))))
        policy = Policy(
            tags=_TAGS,
            peers={name: Peer(name, tuple(ip_network(t) for t in texts)) for name, texts in _PEERS.items()},
            workloads=workloads,
            modes=tuple(modes),
            boundaries=boundaries,
            rules=tuple(self._rule(f"r{i}", workloads) for i in range(pick.randint(1, 8))),
            essentials=self._essentials() if pick.random() < 0.3 else Essentials(),
        )
        hosts = {f"h{i}": Host(f"h{i}", self._tags(), held) for i, held in enumerate(self._hosts)}
        return policy, Inventory(hosts)

    def _tags(self, chance: float = 0.6) -> Tags:
        return Tags.of({k: self._random.choice(v) for k, v in _TAGS.items() if self._random.random() < chance})

    def _workload(self, name: str) -> Workload:
        on = self._tags(0.15)
        tags = {k: v for k, v in self._tags(0.3).pairs if on.get(k) is None}
        return Workload(name, on, self._random.choice(_PROCESSES), Tags.of(tags))

    def _selector(self, workloads: dict[str, Workload]) -> Selector:
        name = self._random.choice((None, None, HOST_WORKLOAD, *workloads))
        return Selector(self._tags(0.2), workload=name)

    def _ends(self, workloads: dict[str, Workload]) -> tuple[Selector, Selector]:
        ends = [self._selector(workloads), self._selector(workloads)]
        kind = self._random.random()
        if kind < 0.5:
            ends[int(kind < 0.25)] = Selector(peer=self._random.choice((ANY_PEER, *_PEERS)))
        return ends[0], ends[1]

    def _rule(self, name: str, workloads: dict[str, Workload]) -> Rule:
        pick = self._random
        source, destination = self._ends(workloads)
        ports = tuple(sorted(set(pick.sample(_PORTS, pick.randint(1, 5)))))
        peers = source.peer is not None or destination.peer is not None
        within = () if peers else tuple(pick.sample(sorted(_TAGS), pick.choice((0, 0, 1))))
        until = pick.choice((None, None, None, NOW + timedelta(days=1), NOW))
        return Rule(name, source, destination, ("drawn",), ports, within, until=until)

    def _essentials(self) -> Essentials:
        """Whole hosts: the explainer speaks of hosts, not of single addresses."""
        host = self._random.choice(("10.77.2.0/24", "10.77.3.0/24"))
        v6 = ip_network("fd77::2:0/112" if host == "10.77.2.0/24" else "fd77::3:0/112")
        both = (ip_network(host), v6)
        return Essentials(dns=both, ntp=both, rescue=both, rescue_ports=(PortRange("tcp", 22, 22),))
