"""Unmanaged addresses, gathered into sites: a declared peer, a network of clients, one server, or everywhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from ipaddress import ip_network

from segctl.model.policy import ANY_PEER, Network, Policy
from segctl.policy.decide import EVERYWHERE

CLIENTS, SERVERS = 4, 16
"""Addresses of one network (a /24, or a /64) from which on the network is taken for them: people move about in theirs,
servers seldom do."""
EVERYWHERE_SITES, EVERYWHERE_PARTS = 24, 8
"""Sites, and first octets (or /32 of IPv6), from which on addresses are not some but all."""
PEER = "peer "
"""Before the name of a declared peer, to tell it from a network."""
ANY = PEER + ANY_PEER


class Sites:
    """`clients`: whether the addresses open connections or take them."""

    def __init__(self, policy: Policy, networks: Iterable[Network], *, clients: bool) -> None:
        declared = [(n, p.name) for p in policy.peers.values() for n in p.networks if n not in EVERYWHERE]
        # Of networks that nest, the smaller is the better name.
        declared.sort(key=lambda one: (-one[0].prefixlen, one[1]))
        self._sites: dict[Network, str] = {}
        loose: dict[Network, list[Network]] = defaultdict(list)
        for network in sorted(set(networks), key=lambda n: (n.version, int(n.network_address), n.prefixlen)):
            name = next((name for peer, name in declared if _inside(network, peer)), None)
            if name is not None:
                self._sites[network] = PEER + name
            else:
                loose[_around(network)].append(network)
        for around, found in loose.items():
            together = len(found) >= (CLIENTS if clients else SERVERS) or around in found
            for network in found:
                self._sites[network] = str(around if together else network)

    def of(self, network: Network) -> str:
        return self._sites[network]


def is_declared(site: str) -> bool:
    return site.startswith(PEER)


def network_of(site: str) -> Network:
    """Of a site that is no declared peer."""
    return ip_network(site)


def are_everywhere(sites: Collection[str]) -> bool:
    """Whether these, none of them declared, are spread over the whole internet."""
    return len(sites) >= EVERYWHERE_SITES and are_from_many_parts(sites)


def are_from_many_parts(sites: Collection[str]) -> bool:
    """Whether these, none of them declared, have little in common."""
    return len({_part(network_of(site)) for site in sites}) >= EVERYWHERE_PARTS


def _around(network: Network) -> Network:
    prefix = 24 if network.version == 4 else 64
    return network if network.prefixlen <= prefix else network.supernet(new_prefix=prefix)


def _inside(network: Network, peer: Network) -> bool:
    return network.version == peer.version and network.subnet_of(peer)  # type: ignore[arg-type]


def _part(network: Network) -> tuple[int, int]:
    return network.version, int(network.network_address) >> (24 if network.version == 4 else 96)
