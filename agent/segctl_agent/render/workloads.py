"""The chains of one workload: what is permitted by hash, what needs a rule of its own, and what becomes of the rest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from segctl.model.addresses import Address, AddressSet
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import PortRange

from segctl_agent.identity import DIRECTIONS, Direction, workload_chain
from segctl_agent.nft import statements as s
from segctl_agent.nft.keys import Keys
from segctl_agent.nft.ruleset import RETURN, Chain, Counts, Data, NftSet, Rule, Statement, goto
from segctl_agent.render.ends import end_name
from segctl_agent.render.marks import Marks
from segctl_agent.render.sets import address_sets, flow_map, flow_suffix, network_sets


def port_statement(ports: PortRange, *, family_known: bool, tcp_known: bool = False) -> Statement:
    """The protocol and ports or message types; all of them need no comparison."""
    if tcp_known:
        return s.tcp_port(ports.low, ports.high)
    if ports.protocol in ("tcp", "udp"):
        if (ports.low, ports.high) == (0, 65535):
            return s.protocol(ports.protocol)
        return s.destination_port("tcp" if ports.protocol == "tcp" else "udp", ports.low, ports.high)
    if (ports.low, ports.high) == (0, 255):
        return s.protocol(ports.protocol)
    return s.icmp_type(ports.low, ports.high, version=4 if ports.protocol == "icmp" else 6, family_known=family_known)


@dataclass(frozen=True, slots=True)
class Shape:
    """What the rules about a group depend on, beside its name: never on who is in it."""

    merged: bool
    """Few enough hosts to be merged with those of other rules; a larger group has a set of its own."""
    hosts: tuple[s.Version, ...]
    networks: tuple[s.Version, ...]
    here: bool = False
    """This host is in it, and with it its containers (ADR 13)."""


MERGED = 4096
LOCAL = "local"
"""The sets of this host's own addresses and those of its containers."""
OPENED: Final = "opened"
"""Not the packet's own fields but the flow's, as it was opened: before any translation of addresses."""
At = Direction | Literal["opened"]


def shape_of(group: Group, own: Collection[Address] = ()) -> Shape:
    """`own` are this host's addresses where it matters whether it is in the group."""
    return Shape(
        len(group.hosts) <= MERGED,
        tuple(v for v in s.VERSIONS if group.hosts.packed(v)),
        tuple(v for v in s.VERSIONS if any(n.version == v for n in group.networks)),
        any(a in group.hosts for a in own),
    )


def counter_name(direction: Direction, rule: str) -> str:
    return f"r_{direction}_{rule}"


def flows_name(workload: str, direction: Direction, until: int, version: s.Version) -> str:
    """The map of a workload's exact entries that end together."""
    return f"{workload_chain(workload, direction)}{version}" + (f"_{until}" if until else "")


class WorkloadRenderer:
    """Renders the chains of workloads. `shapes` are those of the groups; `managed` the families that have enrolled
    addresses which no peer stands for."""

    def __init__(self, shapes: Mapping[str, Shape], managed: tuple[s.Version, ...], marks: Marks) -> None:
        self._shapes = shapes
        self._managed = managed
        self._marks = marks

    def chain(self, workload: LocalWorkload, direction: Direction) -> Chain:
        """What the workload may do."""
        leave = s.verdict(goto(end_name(workload.name, direction)))
        rules = self._permits(workload, direction, direction, leave)
        return Chain((*rules, *(self._redirected() if direction == "out" else ()), Rule.of(leave)))

    def _redirected(self) -> Iterator[Rule]:
        """What this host sends and redirects to a port of its own: loopback, though the hook still names the interface
        that it was to leave by. The program behind that port is judged for what it sends itself."""
        yield from (Rule.of(s.to_loopback(v), *self._marks.essentials("out").accept) for v in s.VERSIONS)

    def back(self, workload: LocalWorkload, direction: Direction) -> Chain:
        """Packets that go the other way than their flow was judged: replies, and segments of a session that is older
        than the table. The service's port then is the near one, and the other direction's entries decide."""
        other: Direction = "out" if direction == "in" else "in"
        return Chain(tuple(self._permits(workload, other, direction, s.verdict(RETURN))))

    def opened(self, workload: LocalWorkload, direction: Direction) -> Chain:
        """What the workload may do, asked of the flow and not of the packet; returns when nothing permits it."""
        return Chain(tuple(self._permits(workload, direction, OPENED, s.verdict(RETURN))))

    def _permits(self, workload: LocalWorkload, of: Direction, at: At, leave: Statement) -> Iterator[Rule]:
        """The permissions of direction `of`, as rules in the hook of direction `at`: exact ones by one look, then those
        to enrolled hosts, then those to peers, from which enrolled hosts are kept out."""
        entries = entries_of(workload, of)
        enrolled = [rule for e in entries if e.managed for rule in self._rules(workload.name, e, of, at)]
        peers = [rule for e in entries if not e.managed for rule in self._rules(workload.name, e, of, at)]
        guard = (Rule.of(_remote(of, at, "managed", v), leave) for v in self._managed)
        if at != OPENED:  # nft has no words for a flow's opening address and port as one key
            yield from self._lookups(workload, of, at)
        yield from dict.fromkeys(enrolled)
        if peers:
            yield from guard
        yield from dict.fromkeys(peers)

    def _lookups(self, workload: LocalWorkload, of: Direction, at: Direction) -> Iterator[Rule]:
        found: dict[tuple[int, s.Version], None] = {}
        for entry in entries_of(workload, of):
            shape = self._shapes[entry.group]
            if shape.merged and any(exact(p) for p in entry.ports):
                found.update(((entry.until, v), None) for v in shape.hosts)
        for until, version in sorted(found):
            name = flows_name(workload.name, of, until, version)
            accept = self._marks.permit(of, workload.name, until).accept
            if of == at:
                look = s.flow_counted(_side(at), name, version=version)
            else:
                look = s.flow_in(_side(at), name, version=version, port="sport")
            yield Rule.of(*_in_time(until), look, *accept)

    def _rules(self, workload: str, entry: Entry, of: Direction, at: At) -> Iterator[Rule]:
        """Ranges, message types, and every port of what has a set of its own."""
        accept = self._marks.permit(of, workload, entry.until).accept
        shape = self._shapes[entry.group]
        counted = (s.count(counter_name(of, entry.rule)),) if at in (of, OPENED) else ()
        local = s.VERSIONS if shape.here and entry.managed else ()
        for ports in entry.ports:
            hosts = () if at != OPENED and shape.merged and exact(ports) else shape.hosts
            for name, versions in ((f"g{entry.group}", hosts), (f"n{entry.group}", shape.networks), (LOCAL, local)):
                for version in versions:
                    port = _port(ports, version, of, at)
                    if port is not None:
                        remote = _remote(of, at, name, version)
                        yield Rule.of(*_in_time(entry.until), remote, port, *counted, *accept)


def entries_of(workload: LocalWorkload, direction: Direction) -> tuple[Entry, ...]:
    return workload.ingress if direction == "in" else workload.egress


def _remote(of: Direction, at: At, base: str, version: s.Version) -> Statement:
    """The other end's address is in the set of this family."""
    if at == OPENED:
        return s.original_address_in(_side(of), f"{base}{version}", version=version)
    return s.address_in(_side(at), f"{base}{version}", version=version)


def _side(direction: Direction) -> s.Side:
    """Where the remote address of a packet is."""
    return "saddr" if direction == "in" else "daddr"


def _in_time(until: int) -> tuple[Statement, ...]:
    return (s.before(until),) if until else ()


def _port(ports: PortRange, version: s.Version, of: Direction, at: At) -> Statement | None:
    """None where there is no such packet: another family's messages, and a way back of what has no ports."""
    if ports.protocol == ("icmpv6" if version == 4 else "icmp"):
        return None
    if at == OPENED and ports.protocol in ("tcp", "udp") and (ports.low, ports.high) != (0, 65535):
        return s.original_port("tcp" if ports.protocol == "tcp" else "udp", ports.low, ports.high)
    if at in (of, OPENED):
        return port_statement(ports, family_known=at != OPENED)
    if ports.protocol == "tcp" or ports.protocol == "udp":
        return s.source_port(ports.protocol, ports.low, ports.high)
    return None


def exact(ports: PortRange) -> bool:
    """One port: with a group of hosts, an exact match that needs no rule."""
    return ports.protocol in ("tcp", "udp") and ports.low == ports.high


def workload_sets(policy: HostPolicy, shapes: Mapping[str, Shape], *, opened: bool = False) -> dict[str, NftSet]:
    """The maps of exact entries, and the sets of the groups that rules refer to: with `opened` of every group. Where
    several rules permit the same, the first by name counts."""
    groups = {g.name: g for g in policy.groups}
    flows: dict[str, dict[bytes, Data]] = {}
    versions: dict[str, s.Version] = {}
    sets: dict[str, NftSet] = {}
    for workload in policy.workloads:
        for direction in DIRECTIONS:
            for entry in sorted(entries_of(workload, direction), key=lambda e: e.rule):
                for version, keys in exact_keys(
                    entry, groups[entry.group], shapes[entry.group], policy.managed
                ).items():
                    name = flows_name(workload.name, direction, entry.until, version)
                    versions[name] = version
                    counter = Counts(counter_name(direction, entry.rule))
                    into = flows.setdefault(name, {})
                    for key in keys:
                        into.setdefault(key, counter)
    sets.update({name: flow_map(versions[name], elements) for name, elements in flows.items()})
    for name in {e.group for e in policy.entries()} if opened else own_sets(policy, shapes):
        sets.update(address_sets(f"g{name}", groups[name].hosts))
    for name in {e.group for e in policy.entries()}:
        sets.update(network_sets(f"n{name}", groups[name].networks))
    sets.update(address_sets("managed", policy.managed))
    return sets


def own_sets(policy: HostPolicy, shapes: Mapping[str, Shape]) -> frozenset[str]:
    """The groups whose hosts have a set of their own."""
    return frozenset(
        e.group for e in policy.entries() if not (shapes[e.group].merged and all(exact(p) for p in e.ports))
    )


def exact_keys(entry: Entry, group: Group, shape: Shape, managed: AddressSet) -> dict[s.Version, Iterable[bytes]]:
    """The keys of an entry in its workload's maps, by family: every host with every single port."""
    suffixes = [flow_suffix(p.protocol, p.low) for p in entry.ports if exact(p)]
    if not shape.merged or not suffixes:
        return {}
    out: dict[s.Version, Iterable[bytes]] = {}
    for version in shape.hosts:
        hosts = list(Keys(4 if version == 4 else 16, group.hosts.packed(version)))
        if not entry.managed:
            kept_out = Keys(4 if version == 4 else 16, managed.packed(version))
            hosts = [h for h in hosts if h not in kept_out]
        out[version] = [host + suffix for host in hosts for suffix in suffixes]
    return out
