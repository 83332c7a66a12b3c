"""Who may talk to whom: the one definition that compile, diff, explain, the policy tests and the kernel agree on.

Each end of a connection is decided on its own host, from what that host can know: its own process for certain, and of
the other end the address. So an end is decided for a local *instance* and a remote *host* (all of its instances), and
a connection passes when both ends let it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

from segctl.model.findings import NOWHERE, Position
from segctl.model.inventory import Address, Host
from segctl.model.policy import (
    ANY_PEER,
    HOST_WORKLOAD,
    Answer,
    Boundary,
    Mode,
    ModeRule,
    Network,
    Policy,
    PortRange,
    Rule,
    Selector,
    Tags,
)

Direction = Literal["egress", "ingress"]
Reason = Literal["rule", "boundary", "default", "essential"]

EVERYWHERE: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))

# Neighbour discovery (RFC 4861) and multicast listener discovery (RFC 2710, RFC 3810): an IPv6 host is not reachable
# without them. segctl_agent.render.essentials passes the same types.
ESSENTIAL_ICMPV6 = frozenset({130, 131, 132, 133, 134, 135, 136, 143})


@dataclass(frozen=True, slots=True, order=True)
class Instance:
    """A workload on a host, with the tags it carries there. `host_tags`, the host's own, tell its neighbours."""

    host: str
    workload: str
    tags: Tags
    host_tags: Tags = field(default=Tags(), compare=False)

    def __str__(self) -> str:
        return f"{self.host}/{self.workload}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What one end makes of a connection. `name` is the deciding rule or boundary, empty for default and essential."""

    allowed: bool
    reason: Reason
    name: str = ""
    position: Position = NOWHERE


def instances(policy: Policy, host: Host) -> tuple[Instance, ...]:
    """The workloads that live on `host`, sorted by name: the declared ones whose `on` it carries, and `host`."""
    named = [
        Instance(host.name, w.name, host.tags.merged(w.tags), host.tags)
        for w in policy.workloads.values()
        if host.tags.includes(w.on)
    ]
    everything_else = Instance(host.name, HOST_WORKLOAD, host.tags, host.tags)
    return tuple(sorted([*named, everything_else], key=lambda i: i.workload))


def selects(selector: Selector, instance: Instance) -> bool:
    """True when the selector names this instance. A peer selector names no instance."""
    if selector.peer is not None:
        return False
    if selector.workload is not None and selector.workload != instance.workload:
        return False
    return instance.tags.includes(selector.tags)


def peer_networks(policy: Policy, name: str) -> tuple[Network, ...]:
    return EVERYWHERE if name == ANY_PEER else policy.peers[name].networks


def matches(policy: Policy, selector: Selector, end: Instance | Address) -> bool:
    """Like `selects`, and for an address nobody enrolled holds: whether the selector's peer covers it."""
    if isinstance(end, Instance):
        return selects(selector, end)
    return selector.peer is not None and any(end in n for n in peer_networks(policy, selector.peer))


def receives(instance: Instance, port: PortRange) -> bool:
    """Whether this can ever arrive at the workload: ICMP is answered by the kernel, for the workload `host` alone."""
    return instance.workload == HOST_WORKLOAD or port.protocol not in ("icmp", "icmpv6")


def effective_mode(policy: Policy, instance: Instance) -> Mode:
    """The strictest of the modes that select the instance; observe where none does."""
    return mode_among(m for m in policy.modes if selects(m.select, instance))


def mode_among(chosen: Iterable[ModeRule]) -> Mode:
    return max((m.mode for m in chosen), key=lambda m: m.strictness, default=Mode.OBSERVE)


def effective_answer(policy: Policy, instance: Instance, direction: Direction) -> Answer:
    """What a denied application sees. Of the entries of `modes` that select the instance and say anything, drop holds
    over reject; where none does, outgoing packets are rejected and incoming ones dropped."""
    return answer_among([m for m in policy.modes if selects(m.select, instance)], direction)


def answer_among(chosen: Iterable[ModeRule], direction: Direction) -> Answer:
    said = {m.outgoing if direction == "egress" else m.incoming for m in chosen} - {None}
    if not said:
        return Answer.REJECT if direction == "egress" else Answer.DROP
    return Answer.DROP if Answer.DROP in said else Answer.REJECT


def is_live(rule: Rule, now: datetime) -> bool:
    return rule.until is None or now < rule.until


def next_end(policy: Policy, now: datetime) -> datetime | None:
    """When the first of the live rules ends: until then nothing changes by itself."""
    return min((r.until for r in policy.rules if r.until is not None and is_live(r, now)), default=None)


def same_within(rule: Rule, source: Tags, destination: Tags) -> bool:
    return all(source.get(k) is not None and source.get(k) == destination.get(k) for k in rule.within)


def ends_of(direction: Direction, rule: Rule | Boundary) -> tuple[Selector, Selector]:
    """(local, remote) selectors of a rule or boundary, seen from the host that decides this direction."""
    return (rule.source, rule.destination) if direction == "egress" else (rule.destination, rule.source)


def cutting_boundary(
    policy: Policy, direction: Direction, local: Instance, remote: Instance | Address
) -> Boundary | None:
    """The first boundary that denies this pair."""
    for boundary in policy.boundaries:
        mine, theirs = ends_of(direction, boundary)
        if selects(mine, local) and matches(policy, theirs, remote):
            return boundary
    return None


def pair_matches(policy: Policy, direction: Direction, rule: Rule, local: Instance, remote: Instance | Address) -> bool:
    """Whether the rule names this pair, boundaries, services and expiry aside."""
    mine, theirs = ends_of(direction, rule)
    if not (selects(mine, local) and matches(policy, theirs, remote)):
        return False
    return not isinstance(remote, Instance) or same_within(rule, local.tags, remote.tags)


def could_call(
    policy: Policy, rules: Iterable[Rule], source: Instance, host: Sequence[Instance], ports: Sequence[PortRange]
) -> bool:
    """Whether `source`'s own end lets it call that host on any of these ports. `rules` are the live ones."""
    return any(
        any(p.overlaps(q) for p in rule.ports for q in ports)
        and any(
            pair_matches(policy, "egress", rule, source, other)
            and cutting_boundary(policy, "egress", source, other) is None
            for other in host
        )
        for rule in rules
    )


def crossing_boundary(
    policy: Policy, rules: Sequence[Rule], rule: Rule, local: Instance, remote: Sequence[Instance]
) -> Boundary | None:
    """The boundary that would be passed under the cover of `rule`, were it to open `local` to that remote host.

    The destination cannot tell the processes of a remote host apart. Where one of them must not reach `local` and its
    own end lets it call this host on such a port, for the sake of another workload here, the whole remote host is kept
    out: a boundary holds whatever rules allow, together or alone.
    """
    neighbours: tuple[Instance, ...] | None = None
    for other in remote:
        boundary = cutting_boundary(policy, "ingress", local, other)
        if boundary is None:
            continue
        neighbours = neighbours or instances(policy, Host(local.host, local.host_tags))
        if could_call(policy, rules, other, neighbours, rule.ports):
            return boundary
    return None


def decide_end(
    policy: Policy,
    direction: Direction,
    local: Instance,
    remote: tuple[Instance, ...] | Address,
    port: PortRange,
    now: datetime,
) -> Decision:
    """What `local`'s host does with `port` to or from `remote`: all instances of a host, or an unmanaged address.

    A boundary is the reason when it cut a rule that would have allowed the connection, or when it denies every pair.
    Essentials are not looked at: see `essential`.
    """
    others: tuple[Instance | Address, ...] = remote if isinstance(remote, tuple) else (remote,)
    cut: Boundary | None = None
    rules = [r for r in policy.rules if is_live(r, now)]
    for rule in rules:
        if not any(p.covers(port) for p in rule.ports):
            continue
        for other in others:
            if pair_matches(policy, direction, rule, local, other):
                boundary = cutting_boundary(policy, direction, local, other)
                if boundary is None and direction == "ingress" and isinstance(remote, tuple):
                    boundary = crossing_boundary(policy, rules, rule, local, remote)
                if boundary is None:
                    return Decision(True, "rule", rule.name, rule.where)
                cut = cut or boundary
    if cut is None:
        boundaries = [cutting_boundary(policy, direction, local, other) for other in others]
        cut = boundaries[0] if all(boundaries) else None
    return Decision(False, "boundary", cut.name, cut.where) if cut else Decision(False, "default")


def essential(
    policy: Policy, direction: Direction, remote: tuple[Address, ...] | Address, port: PortRange
) -> Decision | None:
    """The essential that passes this end whatever rules and boundaries say, or None.

    `remote` is the other end's address, or all addresses of a host, every one of which must be listed. The built-in
    essentials that depend on more than address and port (loopback, DHCP, the agent's own channel) are the caller's
    business.
    """
    if port.protocol == "icmpv6" and all(t in ESSENTIAL_ICMPV6 for t in range(port.low, port.high + 1)):
        return Decision(True, "essential", "neighbour discovery")
    addresses = remote if isinstance(remote, tuple) else (remote,)
    e = policy.essentials
    single = (port.protocol, port.low) if port.low == port.high else None
    if direction == "egress":
        if single in {("udp", 53), ("tcp", 53)} and _held(addresses, e.dns):
            return Decision(True, "essential", "dns", e.where)
        if single == ("udp", 123) and _held(addresses, e.ntp):
            return Decision(True, "essential", "ntp", e.where)
    elif any(p.covers(port) for p in e.rescue_ports) and _held(addresses, e.rescue):
        return Decision(True, "essential", "rescue", e.where)
    return None


def _held(addresses: tuple[IPv4Address | IPv6Address, ...], networks: tuple[Network, ...]) -> bool:
    return bool(addresses) and all(any(a in n for n in networks) for a in addresses)
