"""Addresses that no enrolled host held: the peers of the policy they belong to, and the ranges it cannot tell apart.

A policy speaks of networks only, so all addresses between two borders of its networks are alike to it. The flow store
groups by these ranges: a scan of a million addresses is one row and not a million.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network

from segctl.model.policy import Network, Policy

from segctl_controller.flowstore.columns import joined_remote, split_remote
from segctl_controller.flowstore.wire import address_of, remotes_of

LEAST, MOST = -(2**63), 2**63 - 1
EVERY_IPV4 = IPv4Network("0.0.0.0/0")
Point = tuple[int, int]
"""An address as the store has it: two halves of 64 bits, signed, and in that order."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """`starts` are the first addresses of adjacent ranges that cover everything, sorted. Any range is of one family."""

    starts: tuple[Point, ...] = ((LEAST, LEAST),)

    @classmethod
    def of(cls, networks: Iterable[Network]) -> Ranges:
        """Ranges that each of `networks` holds as a whole or not at all."""
        borders = {(LEAST, LEAST)}
        for network in (EVERY_IPV4, *networks):
            first, last = _points(network)
            borders.add(first)
            after = _after(last)
            if after is not None:
                borders.add(after)
        return cls(tuple(sorted(borders)))

    def at(self, remote: bytes) -> int:
        """The place of the range that holds this address (16 bytes)."""
        return bisect_right(self.starts, split_remote(remote)) - 1

    def first(self, place: int) -> bytes:
        """An address of that range, 16 bytes."""
        return joined_remote(*self.starts[place])

    def within(self, network: Network) -> range:
        """The places of the ranges that this network holds, which must be one that the ranges were made for."""
        first, last = _points(network)
        return range(bisect_right(self.starts, first) - 1, bisect_right(self.starts, last))


def _points(network: Network) -> tuple[Point, Point]:
    """The first and the last address in the order of signed halves."""
    (low_high, low_low), (high_high, high_low) = map(split_remote, remotes_of(network))
    if isinstance(network, IPv4Network) or network.prefixlen > 64:
        return (low_high, low_low), (high_high, high_low)
    if network.prefixlen == 0:
        return (LEAST, LEAST), (MOST, MOST)
    return (low_high, LEAST), (high_high, MOST)


def _after(point: Point) -> Point | None:
    high, low = point
    if low < MOST:
        return high, low + 1
    return (high + 1, LEAST) if high < MOST else None


class Peers:
    """Names the peers of a policy, by the longest prefix; of two peers with one network, the first by name."""

    def __init__(self, policy: Policy) -> None:
        named = sorted(
            ((network, peer.name) for peer in policy.peers.values() for network in peer.networks),
            key=lambda pair: (-pair[0].prefixlen, pair[1]),
        )
        essentials = (*policy.essentials.dns, *policy.essentials.ntp, *policy.essentials.rescue)
        self.ranges = Ranges.of([*(network for network, _ in named), *essentials])
        self._names = [""] * len(self.ranges.starts)
        for network, name in reversed(named):
            for place in self.ranges.within(network):
                if address_of(self.ranges.first(place)).version == network.version:
                    self._names[place] = name

    def name(self, remote: bytes) -> str:
        """The peer that holds this address (16 bytes); empty: none does."""
        return self._names[self.ranges.at(remote)]

    def places(self, peer: str) -> frozenset[int]:
        """The ranges that are named by this peer; of the empty name those that no peer holds."""
        return frozenset(place for place, name in enumerate(self._names) if name == peer)


def block_of(remote: bytes) -> Network:
    """The /24 or /48 around an address of 16 bytes."""
    address = address_of(remote)
    return ip_network((address, 24 if address.version == 4 else 48), strict=False)
