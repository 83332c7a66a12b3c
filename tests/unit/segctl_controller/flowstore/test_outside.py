"""Addresses outside: ranges that a policy cannot tell apart, and the peers that they belong to."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl.model.inventory import Address
from segctl.model.policy import Essentials, Network, Peer, Policy
from segctl_controller.flowstore.outside import Peers, Ranges, block_of
from segctl_controller.flowstore.wire import address_of, remote_of

from tests.strategies import addresses, networks

FAR = [
    "0.0.0.0",
    "255.255.255.255",
    "10.9.1.0",
    "::",
    "::1",
    "fd08:ffff::",
    "fe80::1",
    "ff02::1",
    "2001:db8::8000:0:0:0",
]
anywhere = st.one_of(addresses(), st.sampled_from(FAR).map(ip_address))


@given(st.lists(networks(), max_size=5), st.lists(anywhere, min_size=2, max_size=6))
def test_a_range_lies_in_a_network_as_a_whole_or_not_at_all(some: list[Network], held: list[Address]) -> None:
    ranges = Ranges.of(some)
    for address in held:
        place = ranges.at(remote_of(address))
        stand_in = address_of(ranges.first(place))
        assert ranges.at(ranges.first(place)) == place
        assert stand_in.version == address.version
        for network in some:
            assert (stand_in in network) == (address in network)
            if address in network:
                assert place in ranges.within(network)


@given(st.lists(networks(), max_size=4), st.lists(networks(), max_size=4), anywhere)
def test_a_peer_is_named_by_the_longest_prefix(one: list[Network], other: list[Network], address: Address) -> None:
    policy = Policy(peers={"one": Peer("one", tuple(one)), "other": Peer("other", tuple(other))})
    lengths = {
        peer.name: max((n.prefixlen for n in peer.networks if address in n), default=-1)
        for peer in policy.peers.values()
    }
    longest = max(lengths.values())
    named = min((name for name, length in lengths.items() if length == longest), default="") if longest >= 0 else ""
    peers = Peers(policy)
    assert peers.name(remote_of(address)) == named
    assert peers.ranges.at(remote_of(address)) in peers.places(named)


def test_essentials_are_told_apart_and_name_nobody() -> None:
    peers = Peers(Policy(essentials=Essentials(dns=(ip_network("192.0.2.53"),))))
    server, neighbour = (remote_of(ip_address(a)) for a in ("192.0.2.53", "192.0.2.54"))
    assert peers.ranges.at(server) != peers.ranges.at(neighbour)
    assert (peers.name(server), peers.places("x")) == ("", frozenset())


@pytest.mark.parametrize(
    ("address", "block"),
    [("203.0.113.9", "203.0.113.0/24"), ("2001:db8:1:2::3", "2001:db8:1::/48"), ("fe80::1", "fe80::/48")],
)
def test_blocks(address: str, block: str) -> None:
    assert str(block_of(remote_of(ip_address(address)))) == block
