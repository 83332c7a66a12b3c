"""Networks and flows to sets of the kernel's keys."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from segctl.model.addresses import AddressSet
from segctl.model.policy import Network

from segctl_agent.nft.keys import Keys
from segctl_agent.nft.ruleset import Data, KeyType, NftSet, SetSpec
from segctl_agent.nft.statements import PROTOCOL_NUMBERS

_FIXED_FROM = 512
_BUSY = 1024
_DENIED_AT_ONCE = 16_384
# A SYN is sent again after one second (RFC 6298, section 2.1), and where the answer was lost after three.
_REMEMBERED_MS = 4000


def size_for(count: int) -> int:
    """The size to declare for a hash set: twice its elements in a power of two, so that the kernel allocates once and
    single changes rarely outgrow it. Small sets have no size and grow as they must."""
    return 0 if count < _FIXED_FROM else 1 << (2 * count - 1).bit_length()


def busy_size(count: int) -> int:
    """For small maps that every packet looks at: with a size the kernel takes its plain hash table, which answers in
    two thirds of the time of the one that can grow."""
    return max(_BUSY, size_for(count))


def address_sets(base: str, addresses: AddressSet) -> dict[str, NftSet]:
    """The sets BASE4 and BASE6 of the addresses of each family that has any."""
    out: dict[str, NftSet] = {}
    for version, key in ((4, KeyType.IPV4_ADDR), (6, KeyType.IPV6_ADDR)):
        packed = addresses.packed(version)
        if packed:
            keys = Keys(key.length, packed)
            out[f"{base}{version}"] = NftSet(SetSpec((key,), size=size_for(len(keys))), keys)
    return out


def network_sets(base: str, networks: Iterable[Network]) -> dict[str, NftSet]:
    """The sets BASE4 and BASE6 of the networks of each family that has any; interval sets only where a network is
    wider than one address."""
    every = list(networks)
    out: dict[str, NftSet] = {}
    for version, key in ((4, KeyType.IPV4_ADDR), (6, KeyType.IPV6_ADDR)):
        mine = [n for n in every if n.version == version]
        if not mine:
            continue
        if all(n.prefixlen == n.max_prefixlen for n in mine):
            elements = frozen(n.network_address.packed for n in mine)
            out[f"{base}{version}"] = NftSet(SetSpec((key,), size=size_for(len(elements))), elements)
        else:
            out[f"{base}{version}"] = NftSet(SetSpec((key,), interval=True), frozen(_ranges(mine, key.length)))
    return out


def _ranges(networks: list[Network], width: int) -> Iterable[bytes]:
    """First and last address of each run of networks: adjacent ones are one interval for the kernel."""
    spans = sorted((int(n.network_address), int(n.broadcast_address)) for n in networks)
    low, high = spans[0]
    for first, last in spans[1:]:
        if first <= high + 1:
            high = max(high, last)
            continue
        yield low.to_bytes(width, "big") + high.to_bytes(width, "big")
        low, high = first, last
    yield low.to_bytes(width, "big") + high.to_bytes(width, "big")


def flow_map(version: int, flows: Mapping[bytes, Data]) -> NftSet:
    """Remote address . protocol . port -> the counter of the rule that permits it."""
    address = KeyType.IPV4_ADDR if version == 4 else KeyType.IPV6_ADDR
    key = (address, KeyType.INET_PROTO, KeyType.INET_SERVICE)
    return NftSet(SetSpec(key, size=size_for(len(flows)), counts=True), MappingProxyType(dict(flows)))


def denied_connections(version: int) -> NftSet:
    """Connections whose first SYN was denied, until its retransmit comes: remote address . source port . destination
    port. When it is full, a denied connection is answered at once."""
    address = KeyType.IPV4_ADDR if version == 4 else KeyType.IPV6_ADDR
    key = (address, KeyType.INET_SERVICE, KeyType.INET_SERVICE)
    return NftSet(SetSpec(key, size=_DENIED_AT_ONCE, timeout_ms=_REMEMBERED_MS))


def flow_suffix(protocol: str, port: int) -> bytes:
    """The part of a flow key after the address: protocol and port, each padded to 4 bytes."""
    return struct.pack(">B3xH2x", PROTOCOL_NUMBERS[protocol], port)


def frozen(keys: Iterable[bytes]) -> Mapping[bytes, Data]:
    return MappingProxyType(dict.fromkeys(keys))
