"""Sets of networks: disjoint, sorted, v4 before v6."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from segctl.model.inventory import Address
from segctl.model.policy import Network


def collapse(networks: Iterable[Network]) -> tuple[Network, ...]:
    """The same addresses in the fewest networks."""
    all_networks = list(networks)
    v4 = collapse_addresses(n for n in all_networks if isinstance(n, IPv4Network))
    v6 = collapse_addresses(n for n in all_networks if isinstance(n, IPv6Network))
    return (*v4, *v6)


def exclude(networks: Iterable[Network], holes: Iterable[Network]) -> tuple[Network, ...]:
    """The addresses of `networks` that are in none of `holes`."""
    rest: list[Network] = list(networks)
    for hole in holes:
        kept: list[Network] = []
        for network in rest:
            kept.extend(_without(network, hole))
        rest = kept
    return collapse(rest)


def _without(network: Network, hole: Network) -> list[Network]:
    if isinstance(network, IPv4Network) and isinstance(hole, IPv4Network):
        if network.subnet_of(hole):
            return []
        return list(network.address_exclude(hole)) if hole.subnet_of(network) else [network]
    if isinstance(network, IPv6Network) and isinstance(hole, IPv6Network):
        if network.subnet_of(hole):
            return []
        return list(network.address_exclude(hole)) if hole.subnet_of(network) else [network]
    return [network]


class NetworkIndex:
    """Answers whether an address lies in a set of networks, in the logarithm of their number."""

    def __init__(self, networks: Iterable[Network]) -> None:
        collapsed = sorted(collapse(networks), key=lambda n: (n.version, int(n.network_address)))
        self._starts = [(n.version, int(n.network_address)) for n in collapsed]
        self._ends = [int(n.broadcast_address) for n in collapsed]

    def __contains__(self, address: Address) -> bool:
        value = int(address)
        i = bisect_right(self._starts, (address.version, value)) - 1
        return i >= 0 and self._starts[i][0] == address.version and value <= self._ends[i]
