"""Everything that passes whatever the policy says, in one reviewed list, and the short cuts before it.

Order matters: what a hook has decided before comes first, because nearly every packet ends there; then what the kernel
can tell with one comparison. A flow that an essential lets pass is marked, so that its replies are known. What passes
one way when a session begins passes the other way when the session is older than the table (`loose`), and as a reply
when its mark does not count any more: the first packet after a change may be the server's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from segctl.model.policy import Essentials, Network

from segctl_agent.facts.values import HostFacts
from segctl_agent.identity import DIRECTIONS, Direction
from segctl_agent.nft import statements as s
from segctl_agent.nft.ruleset import ACCEPT, INPUT, OUTPUT, Chain, NftSet, Rule, Statement, goto, jump
from segctl_agent.render.marks import Marks
from segctl_agent.render.sets import network_sets
from segctl_agent.render.workloads import port_statement


def _accept(*statements: Statement) -> Rule:
    return Rule.of(*statements, s.verdict(ACCEPT))


def essential_chains(essentials: Essentials, facts: HostFacts, marks: Marks) -> dict[str, Chain]:
    """The base chains and what they lead to, up to `id_in` and `id_out`."""
    chains: dict[str, Chain] = {}
    for direction in DIRECTIONS:
        base = _base(direction, marks)
        chains["input" if direction == "in" else "output"] = Chain(base, INPUT if direction == "in" else OUTPUT)
        older = _older_in if direction == "in" else _older_out
        chains[f"older_{direction}"] = Chain((*_loose(direction, marks), *older(essentials, facts, marks)))
    identify_in, identify_out = (Rule.of(s.verdict(goto(f"id_{d}"))) for d in DIRECTIONS)
    opening_in, opening_out = tuple(_tcp_in(essentials, facts, marks)), tuple(_tcp_out(essentials, facts, marks))
    chains["syn_in"] = Chain((*opening_in, identify_in))
    chains["syn_out"] = Chain((*opening_out, identify_out))
    confused_in = tuple(_rescue_confused("in", essentials))
    chains["tcp_in"] = Chain((_jump_older("in"), *opening_in, *confused_in, identify_in))
    chains["tcp_out"] = Chain((_jump_older("out"), *opening_out, identify_out))
    # An error about a TCP flow is of that flow for conntrack: it must not be marked as one of datagrams.
    other = (*_related(), Rule.of(marks.datagram()), *_network())
    chains["other_in"] = Chain((*other, *_other_in(essentials, marks), identify_in))
    chains["other_out"] = Chain((*other, *_other_out(essentials, marks), identify_out))
    return chains


def _base(direction: Direction, marks: Marks) -> tuple[Rule, ...]:
    """conntrack remembers a flow longer than its socket lives, and another process may take the port: its datagram, or
    its SYN, would pass by a decision about someone else. So these walk the policy each time.

    A SYN on a connection that conntrack takes for invalid is judged like any other: what it opens is not.

    A reply passes by the decision about its flow's other half. Not a datagram that goes out: here too the port may
    have another owner by now, and its socket is at hand.
    """
    segment = Rule.of(s.flags_without_syn(), marks.live_tcp("out", "in"))
    loopback = _accept(s.interface("iif" if direction == "in" else "oif"))
    syn = Rule.of(s.tcp_syn(), s.verdict(goto(f"syn_{direction}")))
    if direction == "in":
        short = (segment, loopback, syn, Rule.of(s.ct_reply(), marks.live("out")))
    else:
        short = (Rule.of(s.ct_reply(), marks.live_tcp("in")), segment, loopback, syn)
    return (
        *short,
        Rule.of(s.protocol("tcp"), s.verdict(goto(f"tcp_{direction}"))),
        Rule.of(s.verdict(goto(f"other_{direction}"))),
    )


def _jump_older(direction: Direction) -> Rule:
    return Rule.of(s.tcp_without_syn(), s.verdict(jump(f"older_{direction}")))


def _loose(direction: Direction, marks: Marks) -> tuple[Rule, ...]:
    """A segment that opens nothing, of a flow that nobody judged, is of a session older than the table, and conntrack
    may have taken its server for its client: the decision about either half counts. A SYN on such a flow would open a
    new connection under the cover of the old one: it never comes here."""
    other: Direction = "out" if direction == "in" else "in"
    return (Rule.of(*marks.begin_loose()), Rule.of(marks.live(direction)), Rule.of(marks.loose(), marks.live(other)))


def _related() -> tuple[Rule, ...]:
    """ICMP errors of flows that were let pass."""
    return tuple(_accept(s.ct_state("related"), s.protocol(name)) for name in ("icmp", "icmpv6"))


def _network() -> tuple[Rule, ...]:
    """Multicast listener discovery (RFC 2710, RFC 3810), router and neighbour discovery (RFC 4861)."""
    return (_accept(s.icmp_type(130, 136, version=6)), _accept(s.icmp_type(143, 143, version=6)))


def _rescue_confused(direction: Direction, essentials: Essentials) -> Iterator[Rule]:
    """It must work when conntrack is confused. Without an entry there is no mark: no rule that sets one matches."""
    for name, version in _names("rescue", essentials.rescue):
        for ports in essentials.rescue_ports:
            if ports.protocol == "tcp":
                remote = s.address_in("saddr" if direction == "in" else "daddr", name, version=version)
                name_port = s.destination_port if direction == "in" else s.source_port
                yield _accept(s.ct_state("invalid"), remote, name_port("tcp", ports.low, ports.high))


def _rescue_in(essentials: Essentials, marks: Marks, *, tcp: bool) -> Iterator[Rule]:
    for name, version in _names("rescue", essentials.rescue):
        for ports in essentials.rescue_ports:
            if (ports.protocol == "tcp") is tcp and ports.protocol != ("icmpv6" if version == 4 else "icmp"):
                remote = s.address_in("saddr", name, version=version)
                port = port_statement(ports, family_known=False, tcp_known=tcp)  # first: cheaper than a look into a set
                yield Rule.of(port, remote, *marks.essentials("in").accept)


def _tcp_in(essentials: Essentials, facts: HostFacts, marks: Marks) -> Iterator[Rule]:
    yield from _rescue_in(essentials, marks, tcp=True)
    for e in facts.controller:
        if e.address in facts.addresses:
            here = (s.address_is("daddr", e.address), s.destination_port("tcp", e.port, e.port))
            yield Rule.of(*here, *marks.essentials("in").accept)


def _older_in(essentials: Essentials, facts: HostFacts, marks: Marks) -> Iterator[Rule]:
    for e in facts.controller:
        channel = (s.address_is("saddr", e.address), s.source_port("tcp", e.port, e.port))
        yield Rule.of(marks.loose(), *channel, *marks.essentials("out").accept)
        yield Rule.of(s.ct_reply(), s.uid_is(facts.agent_uid), *channel, *marks.essentials("out").accept)
    yield from _answers_of("dns", essentials.dns, "tcp", 53, marks)


def _answers_of(
    base: str, networks: Sequence[Network], protocol: Literal["tcp", "udp"], port: int, marks: Marks
) -> Iterator[Rule]:
    for name, version in _names(base, networks):
        server = (s.address_in("saddr", name, version=version), s.source_port(protocol, port, port))
        yield Rule.of(s.ct_reply(), *server, *marks.essentials("out").accept)


def _other_in(essentials: Essentials, marks: Marks) -> Iterator[Rule]:
    yield from (_accept(s.udp_ports(67, 68)), _accept(s.udp_ports(547, 546)))
    yield from _rescue_in(essentials, marks, tcp=False)
    yield from _answers_of("dns", essentials.dns, "udp", 53, marks)
    yield from _answers_of("ntp", essentials.ntp, "udp", 123, marks)


def _tcp_out(essentials: Essentials, facts: HostFacts, marks: Marks) -> Iterator[Rule]:
    """The agent's own channel, and the way to be enrolled again, are its user's: no other program can borrow them."""
    for name, version in _names("dns", essentials.dns):
        dns = (s.address_in("daddr", name, version=version), s.destination_port("tcp", 53, 53))
        yield Rule.of(*dns, *marks.essentials("out").accept)
    for e in facts.controller:
        channel = (s.address_is("daddr", e.address), s.destination_port("tcp", e.port, e.port))
        yield Rule.of(s.uid_is(facts.agent_uid), *channel, *marks.essentials("out").accept)


def _older_out(essentials: Essentials, facts: HostFacts, marks: Marks) -> Iterator[Rule]:
    """The resets by which a session ends come first: without them its other end would not hear of it."""
    yield _accept(s.ct_state("established", "related"), s.tcp_reset())
    for known in (marks.loose(), s.ct_reply()):
        yield from _rescue_answers(known, essentials, "tcp", marks)
        for e in facts.controller:
            if e.address in facts.addresses:
                here = (s.address_is("saddr", e.address), s.source_port("tcp", e.port, e.port))
                yield Rule.of(known, *here, *marks.essentials("in").accept)
    yield from _rescue_confused("out", essentials)


def _rescue_answers(
    known: Statement, essentials: Essentials, protocol: Literal["tcp", "udp"], marks: Marks
) -> Iterator[Rule]:
    for name, version in _names("rescue", essentials.rescue):
        for ports in essentials.rescue_ports:
            if ports.protocol == protocol:
                remote = s.address_in("daddr", name, version=version)
                near = s.source_port(protocol, ports.low, ports.high)
                yield Rule.of(known, remote, near, *marks.essentials("in").accept)


def _other_out(essentials: Essentials, marks: Marks) -> Iterator[Rule]:
    yield from (_accept(s.udp_ports(68, 67)), _accept(s.udp_ports(546, 547)))
    for base, networks, port in (("dns", essentials.dns, 53), ("ntp", essentials.ntp, 123)):
        for name, version in _names(base, networks):
            server = (s.address_in("daddr", name, version=version), s.destination_port("udp", port, port))
            yield Rule.of(*server, *marks.essentials("out").accept)
    yield _accept(s.ct_reply(), marks.essentials("in").judged)
    yield from _rescue_answers(s.ct_reply(), essentials, "udp", marks)
    yield from (Rule.of(s.ct_reply(), s.protocol(name), marks.live("in")) for name in ("icmp", "icmpv6"))


def essential_sets(essentials: Essentials) -> Mapping[str, NftSet]:
    lists = {"rescue": essentials.rescue, "dns": essentials.dns, "ntp": essentials.ntp}
    return {n: nft_set for base, networks in lists.items() for n, nft_set in network_sets(base, networks).items()}


def _names(base: str, networks: Sequence[Network]) -> tuple[tuple[str, s.Version], ...]:
    return tuple((f"{base}{v}", v) for v in s.VERSIONS if any(n.version == v for n in networks))
