"""Containers with networks of their own: judged by address, where the host forwards their packets. Pure (ADR 13).

    forward_out, to_host     ip saddr ─▶ f_W_out      what a container sends, through this host and into it
    forward_in, from_host    ip daddr ─▶ f_W_in       what a container is sent, through this host and from it

    f_W_D: decided_D (was it judged before?) ─▶ permits_W_D ─▶ end_W_D

Each end is judged at its own hook, so two containers of one host are two ends. What is no container's passes untouched:
the host may be a router. Everything is compared as the flow was opened, before any translation: a policy names the port
that is published and dialled, whatever port it is mapped to, and the address that the other side dialled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from types import MappingProxyType
from typing import Final, Literal

from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import HOST_WORKLOAD, Essentials, Mode

from segctl_agent.facts.values import Address, ContainerFact, HostFacts
from segctl_agent.identity import DIRECTIONS, Direction, Identity
from segctl_agent.nft import statements as s
from segctl_agent.nft.ruleset import (
    ACCEPT,
    DROP,
    FORWARD_IN,
    FORWARD_OUT,
    FROM_HOST,
    TO_HOST,
    Chain,
    Data,
    KeyType,
    NftSet,
    Rule,
    SetSpec,
    Statement,
    goto,
    jump,
)
from segctl_agent.render.ends import end_name, unknown_name
from segctl_agent.render.marks import Marks
from segctl_agent.render.sets import frozen
from segctl_agent.render.workloads import LOCAL, WorkloadRenderer

HOOKS: Final = {"forward_out": FORWARD_OUT, "forward_in": FORWARD_IN, "to_host": TO_HOST, "from_host": FROM_HOST}
_KEYS: Final[dict[s.Version, KeyType]] = {4: KeyType.IPV4_ADDR, 6: KeyType.IPV6_ADDR}


def forward_chains(
    policy: HostPolicy, facts: HostFacts, identity: Identity, renderer: WorkloadRenderer, marks: Marks
) -> dict[str, Chain]:
    """None while no workload of this host is told by its container: its forwarding is none of our business then. With
    one, every container of the host is judged, and what they say depends on no container."""
    if not identity.names_containers:
        return {}
    chains = {name: Chain(_base(name, facts.bridges), hook) for name, hook in HOOKS.items()}
    for direction in DIRECTIONS:
        chains[f"decided_{direction}"] = Chain(tuple(_decided(direction, marks)))
        for workload in policy.workloads:
            chains[_permits(workload.name, direction)] = renderer.opened(workload, direction)
            servers = _servers(policy.essentials, marks, () if direction == "out" else (s.ct_reply(),))
            chains[forward_name(workload.name, direction)] = _judge(workload, direction, servers)
    return chains


def forward_sets(facts: HostFacts, identity: Identity) -> dict[str, NftSet]:
    """Both families' sets exist always, so that a new container is some elements and nothing else."""
    if not identity.names_containers:
        return {}
    owners = container_owners(facts, identity)
    local = {a.packed for a in (*own_addresses(facts), *owners)}
    sets = {
        f"{LOCAL}{v}": NftSet(SetSpec((key,)), frozen(a for a in local if len(a) == key.length))
        for v, key in _KEYS.items()
    }
    for direction in DIRECTIONS:
        found: dict[int, dict[bytes, Data]] = {v: {} for v in s.VERSIONS}
        for address, workload in owners.items():
            chain = unknown_name(direction) if workload is None else forward_name(workload, direction)
            found[address.version][address.packed] = goto(chain)
        for v, key in _KEYS.items():
            spec = SetSpec((key,), verdicts=True)
            sets[container_map(v, direction)] = NftSet(spec, MappingProxyType(found[v]))
    return sets


def own_addresses(facts: HostFacts) -> tuple[Address, ...]:
    """This host's own, as its containers see them: loopback too, from which it may dial a port that it publishes."""
    return tuple(a for a in facts.addresses if not a.is_link_local)


def container_owners(facts: HostFacts, identity: Identity) -> dict[Address, str | None]:
    """The workload of each container address. Containers of one network (a pod) share its address: a workload that is
    named goes before `host`, then the name decides. None for an address in two networks: one of them claims it."""
    holders: dict[Address, list[ContainerFact]] = defaultdict(list)
    for container in facts.containers:
        for address in container.addresses:
            holders[address].append(container)
    owners: dict[Address, str | None] = {}
    for address, some in holders.items():
        workloads = {identity.place(c.cgroup).workload for c in some}
        first = min(workloads, key=lambda name: (name == HOST_WORKLOAD, name))
        owners[address] = first if len({c.network for c in some}) == 1 else None
    return owners


def forward_name(workload: str, direction: Direction) -> str:
    return f"f_{workload}_{direction}"


def container_map(version: s.Version, direction: Direction) -> str:
    return f"ctr{version}_{direction}"


def _permits(workload: str, direction: Direction) -> str:
    return f"permits_{workload}_{direction}"


def _base(name: str, bridges: Iterable[str]) -> tuple[Rule, ...]:
    """Known containers by address; then whatever comes from or goes to a container network and is no known container
    yet, which is closed while anything enforces. What this host itself sends there was judged at its own end."""
    direction: Direction = "out" if name in ("forward_out", "to_host") else "in"
    side: s.Side = "saddr" if direction == "out" else "daddr"
    local = _link_local() if name in ("to_host", "from_host") else ()
    known = tuple(Rule.of(s.address_verdict(side, container_map(v, direction), version=v)) for v in s.VERSIONS)
    unknown = s.verdict(goto(unknown_name(direction)))
    closed = () if name == "from_host" else bridges
    interface: Literal["iifname", "oifname"] = "iifname" if direction == "out" else "oifname"
    return (*local, *known, *(Rule.of(s.interface_is(interface, bridge), unknown) for bridge in closed))


def _link_local() -> tuple[Rule, ...]:
    """What keeps a link going is no connection: multicast listener, router and neighbour discovery (RFC 2710, 3810,
    4861), DHCP."""
    accept = s.verdict(ACCEPT)
    types = (Rule.of(s.icmp_type(130, 136, version=6), accept), Rule.of(s.icmp_type(143, 143, version=6), accept))
    return (*types, *(Rule.of(s.udp_ports(*ports), accept) for ports in ((68, 67), (67, 68), (546, 547), (547, 546))))


def _decided(direction: Direction, marks: Marks) -> Iterator[Rule]:
    """Accepts what a decision that counts let pass, and errors about it; returns for what is to be judged. As in the
    host's own hooks, which see some of these flows too and rely on the bit for datagrams: a SYN, and a datagram that is
    sent, pass by no earlier decision."""
    other: Direction = "out" if direction == "in" else "in"
    yield Rule.of(s.protocol_not("tcp"), s.ct_state("new", "established"), marks.datagram())  # not errors: of any flow
    yield Rule.of(s.tcp_without_syn(), marks.live(direction))
    yield Rule.of(s.ct_reply(), marks.live_tcp(other) if direction == "out" else marks.live(other))
    yield Rule.of(s.tcp_without_syn(), *marks.begin_loose())
    yield Rule.of(s.tcp_without_syn(), marks.loose(), marks.live(other))
    for name in ("icmp", "icmpv6"):
        yield Rule.of(s.ct_state("related"), s.protocol(name), s.verdict(ACCEPT))


def _judge(workload: LocalWorkload, direction: Direction, servers: Iterable[Rule]) -> Chain:
    """Of a reply the other half of the flow was judged: where that decision does not count any more it is judged anew,
    by the permissions for that half, which know the flow as it was opened."""
    other: Direction = "in" if direction == "out" else "out"
    end = s.verdict(goto(end_name(workload.name, direction)))
    invalid = (Rule.of(s.ct_state("invalid"), s.verdict(DROP)),) if workload.mode is Mode.ENFORCE else ()
    return Chain(
        (
            Rule.of(s.verdict(jump(f"decided_{direction}"))),
            *invalid,
            *(servers if direction == "in" else ()),
            Rule.of(s.ct_reply(), s.verdict(jump(_permits(workload.name, other)))),
            Rule.of(s.ct_reply(), end),
            *(servers if direction == "out" else ()),
            Rule.of(s.verdict(jump(_permits(workload.name, direction)))),
            Rule.of(end),
        )
    )


_SERVICES: Final[tuple[tuple[str, int, Literal["tcp", "udp"]], ...]] = (
    ("dns", 53, "udp"),
    ("dns", 53, "tcp"),
    ("ntp", 123, "udp"),
)


def _servers(essentials: Essentials, marks: Marks, only: tuple[Statement, ...]) -> Iterator[Rule]:
    """The declared DNS and NTP servers are for containers too. `only` their answers, where that is said first."""
    for base, port, protocol in _SERVICES:
        networks = essentials.dns if base == "dns" else essentials.ntp
        for version in s.VERSIONS:
            if any(n.version == version for n in networks):
                server = s.original_address_in("daddr", f"{base}{version}", version=version)
                yield Rule.of(*only, server, s.original_port(protocol, port, port), *marks.essentials("out").accept)
