"""The algebra of selectors: what everything that a selector names carries, which selector covers or meets another.

It looks at what could be enrolled, not at what is: a finding must not come and go with a host.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from segctl.model.findings import Finding, Position, Severity
from segctl.model.policy import Network, Policy, PortRange, Selector
from segctl.policy.decide import peer_networks
from segctl.policy.networks import collapse

Pair = tuple[str, str]


def warning(where: Position, code: str, message: str, hint: str) -> Finding:
    return Finding(where, Severity.WARNING, code, message, hint)


def error(where: Position, code: str, message: str, hint: str) -> Finding:
    return Finding(where, Severity.ERROR, code, message, hint)


class NetworkSet:
    """Networks by prefix, so that containment costs one lookup for each prefix length in use."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self.networks = collapse(networks)
        self._prefixes = {_prefix(n, n.prefixlen) for n in self.networks}
        self._lengths = {v: sorted({n.prefixlen for n in self.networks if n.version == v}) for v in (4, 6)}

    def covers(self, network: Network) -> bool:
        # After collapsing, a network inside the union is inside one member.
        lengths = self._lengths[network.version]
        return any(_prefix(network, n) in self._prefixes for n in lengths if n <= network.prefixlen)

    def covers_all(self, other: NetworkSet) -> bool:
        return all(self.covers(n) for n in other.networks)

    def meets(self, other: NetworkSet) -> bool:
        return any(self.covers(n) for n in other.networks) or any(other.covers(n) for n in self.networks)


def _prefix(network: Network, length: int) -> tuple[int, int, int]:
    return network.version, length, int(network.network_address) >> (network.max_prefixlen - length)


@dataclass(frozen=True, slots=True)
class Term:
    """A selector, worked out. `known` is what every instance it names carries; `possible` is False when none can be."""

    wanted: frozenset[Pair]
    known: Mapping[str, str]
    workload: str | None
    peer: str | None
    networks: NetworkSet | None
    possible: bool

    def covers(self, other: Term) -> bool:
        """Names everything that `other` could name."""
        if self.networks is not None or other.networks is not None:
            if self.networks is None or other.networks is None:
                return False
            return self.peer == other.peer or self.networks.covers_all(other.networks)
        if self.workload is not None and self.workload != other.workload:
            return False
        return all(other.known.get(key) == value for key, value in self.wanted)

    def meets(self, other: Term) -> bool:
        """Could name something that `other` names too."""
        if not (self.possible and other.possible):
            return False
        if self.networks is not None or other.networks is not None:
            return self.networks is not None and other.networks is not None and self.networks.meets(other.networks)
        if None not in (self.workload, other.workload) and self.workload != other.workload:
            return False
        return all(other.known.get(key, value) == value for key, value in self.known.items())


class Terms:
    """The terms of one policy's selectors, each worked out once."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._terms: dict[Selector, Term] = {}
        self._peers: dict[str, NetworkSet] = {}

    def of(self, selector: Selector) -> Term:
        if selector not in self._terms:
            self._terms[selector] = self._work_out(selector)
        return self._terms[selector]

    def _work_out(self, selector: Selector) -> Term:
        wanted = selector.tags
        if selector.peer is not None:
            networks = self._peers.setdefault(selector.peer, NetworkSet(peer_networks(self._policy, selector.peer)))
            return Term(frozenset(), {}, None, selector.peer, networks, True)
        workload = self._policy.workloads.get(selector.workload) if selector.workload else None
        carried = workload.on.merged(workload.tags) if workload else None
        known = carried.merged(wanted) if carried else wanted
        possible = not (carried and carried.conflicts(wanted))
        return Term(frozenset(wanted.pairs), dict(known.pairs), selector.workload, None, None, possible)


def within_can_hold(within: Collection[str], source: Mapping[str, str], destination: Mapping[str, str]) -> bool:
    """False when both ends are known to differ in a tag that must be the same."""
    return all(source.get(k, destination.get(k)) == destination.get(k, source.get(k)) for k in within)


def covers_ports(wide: Collection[PortRange], narrow: Collection[PortRange]) -> bool:
    """Both normalized: every range of `narrow` lies in one of `wide`."""
    return all(any(w.covers(n) for w in wide) for n in narrow)
