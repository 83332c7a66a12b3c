"""The chains of one workload: what is permitted by hash, what needs a rule of its own, and what becomes of the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from segctl.model.hostpolicy import Entry, LocalWorkload
from segctl.model.policy import Network, PortRange

from segctl_agent.identity import Direction, workload_chain
from segctl_agent.nft import statements as s
from segctl_agent.nft.ruleset import ACCEPT, RETURN, Chain, NftSet, Rule, Statement, goto
from segctl_agent.render.ends import end_name
from segctl_agent.render.sets import flow_spec, flow_suffix, frozen

BackPort = Callable[[int, int], Statement]


def port_statement(ports: PortRange, *, family_known: bool) -> Statement:
    """The protocol and ports or message types; all of them need no comparison."""
    if ports.protocol in ("tcp", "udp"):
        if (ports.low, ports.high) == (0, 65535):
            return s.protocol(ports.protocol)
        return s.destination_port("tcp" if ports.protocol == "tcp" else "udp", ports.low, ports.high)
    if (ports.low, ports.high) == (0, 255):
        return s.protocol(ports.protocol)
    return s.icmp_type(ports.low, ports.high, version=4 if ports.protocol == "icmp" else 6, family_known=family_known)


@dataclass(frozen=True, slots=True)
class WorkloadChains:
    """One workload in one direction, rendered: its flow sets, its chain, and the groups that its rules refer to."""

    sets: Mapping[str, NftSet]
    chain: Chain
    groups: frozenset[str]


class WorkloadRenderer:
    """Renders the workloads of one direction. `groups` are the networks of each group, `managed` the enrolled
    addresses that no peer stands for, `mark` the epoch's statement."""

    def __init__(
        self,
        direction: Direction,
        groups: Mapping[str, tuple[Network, ...]],
        managed: frozenset[Network],
        mark: Statement,
    ) -> None:
        self._direction = direction
        self._side: s.Side = "saddr" if direction == "in" else "daddr"
        self._groups = groups
        self._managed = managed
        self._versions = tuple(v for v in s.VERSIONS if any(n.version == v for n in managed))
        self._permit = (mark, s.verdict(ACCEPT))
        self._plain = {name: _versions(networks, wide=False) for name, networks in groups.items()}
        self._wide = {name: _versions(networks, wide=True) for name, networks in groups.items()}

    def render(self, workload: LocalWorkload, first: tuple[Rule, ...] = ()) -> WorkloadChains:
        """`first` are rules before everything else."""
        name, end = workload_chain(workload.name, self._direction), end_name(workload.name, self._direction)
        entries = workload.ingress if self._direction == "in" else workload.egress
        flows: dict[s.Version, dict[bytes, None]] = {v: {} for v in s.VERSIONS}
        enrolled: dict[Rule, None] = {}
        peers: dict[Rule, None] = {}
        groups: set[str] = set()
        for entry in entries:
            self._flows(entry, flows)
            for group, rule in self._rules(entry):
                groups.add(group)
                (enrolled if entry.managed else peers)[rule] = None
        lookups = tuple(Rule.of(s.flow_in(self._side, f"{name}{v}", version=v), *self._permit) for v in s.VERSIONS)
        leave = s.verdict(goto(end))
        guard = tuple(Rule.of(s.address_in(self._side, f"managed{v}", version=v), leave) for v in self._versions)
        rules = (*first, *lookups, *enrolled, *(guard if peers else ()), *peers, Rule.of(leave))
        sets = {f"{name}{v}": NftSet(flow_spec(v, len(keys)), frozen(keys)) for v, keys in flows.items()}
        return WorkloadChains(sets, Chain(rules), frozenset(groups))

    def back(self, workload: LocalWorkload) -> Chain:
        """For a segment of a session that is older than the table: what it would be permitted as, had conntrack taken
        the server for the client. The service's port then is the near one, and the other direction's entries decide."""
        other: Direction = "out" if self._direction == "in" else "in"
        flows = workload_chain(workload.name, other)
        lookups = tuple(
            Rule.of(s.flow_in(self._side, f"{flows}{v}", version=v, port="sport"), *self._permit) for v in s.VERSIONS
        )
        enrolled: dict[Rule, None] = {}
        peers: dict[Rule, None] = {}
        for entry in workload.egress if other == "out" else workload.ingress:
            for _, rule in self._rules(entry, s.source_port):
                (enrolled if entry.managed else peers)[rule] = None
        leave = s.verdict(RETURN)
        guard = tuple(Rule.of(s.address_in(self._side, f"managed{v}", version=v), leave) for v in self._versions)
        return Chain((*lookups, *enrolled, *(guard if peers else ()), *peers))

    def _flows(self, entry: Entry, flows: Mapping[s.Version, dict[bytes, None]]) -> None:
        """Every address with every single port: an exact match needs no rule, however many there are."""
        suffixes = [flow_suffix(p.protocol, p.low) for p in entry.ports if _exact(p)]
        if not suffixes:
            return
        plain = self._plain[entry.group]
        for network in self._groups[entry.group]:
            version: s.Version = 4 if network.version == 4 else 6
            if version not in plain or (not entry.managed and network in self._managed):
                continue
            address = network.network_address.packed
            flows[version].update(dict.fromkeys(address + suffix for suffix in suffixes))

    def _rules(self, entry: Entry, back: BackPort | None = None) -> Iterator[tuple[str, Rule]]:
        """(group, rule) for ranges, message types, and every port of a group with wide networks. With `back`, for TCP
        alone, and the statement of the port is its."""
        for ports in entry.ports:
            if back is not None and ports.protocol != "tcp":
                continue
            versions = self._wide[entry.group] if _exact(ports) else self._plain[entry.group] | self._wide[entry.group]
            for version in sorted(versions):
                if ports.protocol == ("icmpv6" if version == 4 else "icmp"):
                    continue
                remote = s.address_in(self._side, f"g{entry.group}{version}", version=version)
                port = back(ports.low, ports.high) if back else port_statement(ports, family_known=True)
                yield entry.group, Rule.of(remote, port, *self._permit)


def _exact(ports: PortRange) -> bool:
    return ports.protocol in ("tcp", "udp") and ports.low == ports.high


def _versions(networks: tuple[Network, ...], *, wide: bool) -> frozenset[s.Version]:
    """The families whose networks include wide ones, or that consist of single addresses only."""
    out: set[s.Version] = set()
    for version in s.VERSIONS:
        mine = [n for n in networks if n.version == version]
        if mine and any(n.prefixlen < n.max_prefixlen for n in mine) is wide:
            out.add(version)
    return frozenset(out)
