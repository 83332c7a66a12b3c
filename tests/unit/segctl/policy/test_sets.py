"""Ports and networks as sets: the algebra, against plain Python sets."""

from __future__ import annotations

import time
from ipaddress import ip_address, ip_network
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from segctl.model.policy import PortRange
from segctl.policy.networks import NetworkIndex, collapse, exclude
from segctl.policy.ports import Ports, intersect, normalize, subtract

ranges = st.builds(
    lambda proto, a, b: PortRange(proto, min(a, b), max(a, b)),
    st.sampled_from(["tcp", "udp"]),
    st.integers(0, 40),
    st.integers(0, 40),
)
networks = st.one_of(
    st.builds(lambda a, p: ip_network((a & ~((1 << (32 - p)) - 1), p)), st.integers(0, 255), st.integers(24, 32)),
    st.builds(
        lambda a, p: ip_network((bytes(15) + bytes([a & ~((1 << (128 - p)) - 1) & 255]), p)),
        st.integers(0, 255),
        st.integers(120, 128),
    ),
)


def every(ports: Ports | list[PortRange]) -> set[tuple[str, int]]:
    return {(p.protocol, n) for p in ports for n in range(p.low, p.high + 1)}


@given(st.lists(ranges), st.lists(ranges))
def test_ports_are_sets(a: list[PortRange], b: list[PortRange]) -> None:
    assert every(normalize(a)) == every(a)
    assert every(intersect(a, b)) == every(a) & every(b)
    assert every(subtract(a, b)) == every(a) - every(b)


@given(st.lists(ranges))
def test_normal_ports_are_disjoint_and_apart(a: list[PortRange]) -> None:
    out = normalize(a)
    assert all(p.protocol != q.protocol or p.high + 1 < q.low for p, q in pairwise(out))


def addresses(of) -> set:
    return {a for n in of for a in n}


@given(st.lists(networks, max_size=6), st.lists(networks, max_size=6))
def test_networks_are_sets(a: list, b: list) -> None:
    assert addresses(exclude(a, b)) == addresses(a) - addresses(b)
    assert addresses(collapse(a)) == addresses(a)


@given(st.lists(networks, max_size=6), st.integers(0, 255))
def test_the_index_agrees_with_a_scan(a: list, last: int) -> None:
    index = NetworkIndex(a)
    for address in (ip_address(last), ip_address(bytes(15) + bytes([last]))):
        assert (address in index) == any(address in n for n in a)


def test_leaving_out_many_addresses_is_quick() -> None:
    holes = [ip_network((0x0A000000 + 2 * n, 32)) for n in range(20_000)]
    began = time.monotonic()
    left = exclude([ip_network("0.0.0.0/0"), ip_network("::/0")], holes)
    assert time.monotonic() - began < 10.0
    assert sum(n.num_addresses for n in left if n.version == 4) == 2**32 - 20_000
    assert left[-1] == ip_network("::/0")
