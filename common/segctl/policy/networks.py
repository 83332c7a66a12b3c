"""Sets of networks: disjoint, sorted, v4 before v6."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    summarize_address_range,
)

from segctl.model.inventory import Address
from segctl.model.policy import Network


def collapse(networks: Iterable[Network]) -> tuple[Network, ...]:
    """The same addresses in the fewest networks."""
    all_networks = list(networks)
    v4 = collapse_addresses(n for n in all_networks if isinstance(n, IPv4Network))
    v6 = collapse_addresses(n for n in all_networks if isinstance(n, IPv6Network))
    return (*v4, *v6)


def exclude(networks: Iterable[Network], holes: Iterable[Network]) -> tuple[Network, ...]:
    """The addresses of `networks` that are in none of `holes`, in the fewest networks."""
    kept, cut = list(networks), list(holes)
    v4 = _summarized(IPv4Address, _subtract(_spans(kept, 4), _spans(cut, 4)))
    v6 = _summarized(IPv6Address, _subtract(_spans(kept, 6), _spans(cut, 6)))
    return (*v4, *v6)


Span = tuple[int, int]
"""The first and the last address of a range, as numbers."""


def _spans(networks: Iterable[Network], version: int) -> list[Span]:
    """Sorted, disjoint and not adjacent."""
    out: list[Span] = []
    chosen = (n for n in networks if n.version == version)
    for low, high in sorted((int(n.network_address), int(n.broadcast_address)) for n in chosen):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return out


def _subtract(spans: Iterable[Span], holes: list[Span]) -> Iterator[Span]:
    """One walk over both: a list of a thousand addresses to leave out is nothing unusual."""
    at = 0
    for low, high in spans:
        start = low
        while at < len(holes) and holes[at][1] < start:
            at += 1
        following = at
        while following < len(holes) and holes[following][0] <= high:
            if holes[following][0] > start:
                yield start, holes[following][0] - 1
            start = holes[following][1] + 1
            following += 1
        if start <= high:
            yield start, high


def _summarized(kind: type[IPv4Address | IPv6Address], spans: Iterable[Span]) -> Iterator[Network]:
    for low, high in spans:
        yield from summarize_address_range(kind(low), kind(high))


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
