"""Everything that passes whatever the policy says, in one reviewed list.

Order matters: what a hook has decided before comes first, because nearly every packet ends there. What passes one way
when a session begins passes the other way when the session is older than the table (`loose`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from segctl.model.policy import Essentials, Network

from segctl_agent.facts.values import HostFacts
from segctl_agent.nft import statements as s
from segctl_agent.nft.ruleset import ACCEPT, DROP, NftSet, Rule, Statement
from segctl_agent.render.marks import decided, loose
from segctl_agent.render.sets import network_sets
from segctl_agent.render.workloads import port_statement


def _accept(*statements: Statement) -> Rule:
    return Rule.of(*statements, s.verdict(ACCEPT))


def _network() -> tuple[Rule, ...]:
    """Multicast listener discovery (RFC 2710, RFC 3810), router and neighbour discovery (RFC 4861)."""
    return (_accept(s.icmp_type(130, 136, version=6)), _accept(s.icmp_type(143, 143, version=6)))


def incoming(essentials: Essentials, facts: HostFacts, epoch: int) -> tuple[Rule, ...]:
    """Before identity, on input. The rescue list comes before `invalid`: it must work when conntrack is confused."""
    dhcp = (_accept(s.udp_ports(67, 68)), _accept(s.udp_ports(547, 546)))
    rescue = tuple(
        _accept(s.address_in("saddr", name, version=version), port_statement(ports, family_known=True))
        for name, version in _names("rescue", essentials.rescue)
        for ports in essentials.rescue_ports
        if ports.protocol != ("icmpv6" if version == 4 else "icmp")
    )
    controller = tuple(
        _accept(s.address_is("daddr", e.address), s.destination_port("tcp", e.port, e.port))
        for e in facts.controller
        if e.address in facts.addresses
    )
    channel = tuple(
        _accept(*loose(), s.address_is("saddr", e.address), s.source_port(e.port, e.port, tcp_known=True))
        for e in facts.controller
    )
    invalid = Rule.of(s.ct_state("invalid"), s.verdict(DROP))
    return (_accept(s.interface("iif")), *decided(epoch), *_network(), *dhcp, *rescue, *controller, *channel, invalid)


def outgoing(essentials: Essentials, facts: HostFacts, epoch: int) -> tuple[Rule, ...]:
    """Before identity, on output: the agent's own channel is its user's, so no other program can borrow it."""
    dhcp = (_accept(s.udp_ports(68, 67)), _accept(s.udp_ports(546, 547)))
    dns = tuple(
        _accept(s.address_in("daddr", name, version=version), s.destination_port(protocol, 53, 53))
        for name, version in _names("dns", essentials.dns)
        for protocol in ("udp", "tcp")
    )
    ntp = tuple(
        _accept(s.address_in("daddr", name, version=version), s.destination_port("udp", 123, 123))
        for name, version in _names("ntp", essentials.ntp)
    )
    channel = tuple(
        _accept(s.uid_is(facts.agent_uid), s.address_is("daddr", e.address), s.destination_port("tcp", e.port, e.port))
        for e in facts.controller
    )
    rescue = tuple(
        _accept(
            *loose(), s.address_in("daddr", name, version=version), s.source_port(ports.low, ports.high, tcp_known=True)
        )
        for name, version in _names("rescue", essentials.rescue)
        for ports in essentials.rescue_ports
        if ports.protocol == "tcp"
    )
    controller = tuple(
        _accept(*loose(), s.address_is("saddr", e.address), s.source_port(e.port, e.port, tcp_known=True))
        for e in facts.controller
        if e.address in facts.addresses
    )
    essential = (*_network(), *dhcp, *dns, *ntp, *channel, *rescue, *controller)
    return (_accept(s.interface("oif")), *decided(epoch), *essential)


def essential_sets(essentials: Essentials) -> Mapping[str, NftSet]:
    lists = {"rescue": essentials.rescue, "dns": essentials.dns, "ntp": essentials.ntp}
    return {n: nft_set for base, networks in lists.items() for n, nft_set in network_sets(base, networks).items()}


def _names(base: str, networks: Sequence[Network]) -> tuple[tuple[str, s.Version], ...]:
    return tuple((f"{base}{v}", v) for v in s.VERSIONS if any(n.version == v for n in networks))
