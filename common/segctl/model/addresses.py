"""A set of single addresses in the least memory: each family's, packed, sorted and joined."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import islice
from operator import lt
from sys import byteorder

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
FEW = 8
"""Of a set that is this many times as large as its changes, or more, each change is put in by itself: that copies the
set, and looks at no other key."""


@dataclass(frozen=True, slots=True)
class AddressSet:
    """`v4` are 4 bytes an address, `v6` 16, in network order, ascending, each once.

    100,000 IPv4 addresses are 400 kB here; as objects of `ipaddress` they are 20 MB.
    """

    v4: bytes = b""
    v6: bytes = b""

    @classmethod
    def of(cls, addresses: Iterable[Address]) -> AddressSet:
        return cls.packing({a.packed for a in addresses})

    @classmethod
    def packing(cls, packed: Iterable[bytes]) -> AddressSet:
        """Of packed addresses, each once."""
        keys = sorted(packed)
        whole = b"".join(keys)
        if len(whole) == 4 * len(keys):
            return cls(whole)
        return cls(b"".join([k for k in keys if len(k) == 4]), b"".join([k for k in keys if len(k) == 16]))

    @classmethod
    def parse(cls, v4: bytes, v6: bytes) -> AddressSet:
        """From the wire. Raises ValueError when a family is cut short or not strictly ascending."""
        for data, width in ((v4, 4), (v6, 16)):
            if len(data) % width:
                raise ValueError(f"{len(data)} bytes are no whole number of {width}-byte addresses")
            if not _ascending(data, width):
                raise ValueError("addresses are not in ascending order, or one is there twice")
        return cls(v4, v6)

    def packed(self, version: int) -> bytes:
        return self.v4 if version == 4 else self.v6

    def count(self, version: int) -> int:
        return len(self.v4) // 4 if version == 4 else len(self.v6) // 16

    def __len__(self) -> int:
        return len(self.v4) // 4 + len(self.v6) // 16

    def __iter__(self) -> Iterator[Address]:
        yield from (_address(k) for k in _chunks(self.v4, 4))
        yield from (_address(k) for k in _chunks(self.v6, 16))

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, (IPv4Address, IPv6Address)):
            return False
        data, key = self.packed(address.version), address.packed
        at = find(data, key)
        return data[at : at + len(key)] == key

    def difference(self, other: AddressSet) -> tuple[tuple[Address, ...], tuple[Address, ...]]:
        """(what `other` has more, what it has less). Costs little where the two differ in little."""
        more: list[Address] = []
        less: list[Address] = []
        for a, b, width in ((self.v4, other.v4, 4), (self.v6, other.v6, 16)):
            mine, theirs = (set(_chunks(d, width)) for d in _middle(a, b, width))
            more += [_address(k) for k in sorted(theirs - mine)]
            less += [_address(k) for k in sorted(mine - theirs)]
        return tuple(more), tuple(less)

    def delta(self, other: AddressSet) -> tuple[AddressSet, AddressSet]:
        """The same, as sets."""
        v4, v6 = (_apart(*_middle(a, b, w), w) for a, b, w in ((self.v4, other.v4, 4), (self.v6, other.v6, 16)))
        return AddressSet(v4[0], v6[0]), AddressSet(v4[1], v6[1])

    def keys(self) -> list[bytes]:
        """Packed."""
        return [*_chunks(self.v4, 4), *_chunks(self.v6, 16)]

    def __le__(self, other: AddressSet) -> bool:
        """Every address of this set is one of the other."""
        return self == other or all(_within(a, b, w) for a, b, w in ((self.v4, other.v4, 4), (self.v6, other.v6, 16)))

    def changed(self, added: Iterable[Address] = (), removed: Iterable[Address] = ()) -> AddressSet:
        """This set with some addresses more and some less."""
        halves = {4: self.v4, 6: self.v6}
        for address in removed:
            halves[address.version] = without(halves[address.version], address.packed)
        for address in added:
            halves[address.version] = with_key(halves[address.version], address.packed)
        return AddressSet(halves[4], halves[6])

    def updated(self, added: Collection[bytes] = (), removed: Collection[bytes] = ()) -> AddressSet:
        """Like `changed`, of packed addresses: few are put in one by one, many all at once."""
        if (len(added) + len(removed)) * FEW > len(self):
            return AddressSet.packing(set(self.keys()).difference(removed).union(added))
        v4, v6 = self.v4, self.v6
        for keys, edit in ((removed, without), (added, with_key)):
            for key in keys:
                if len(key) == 4:
                    v4 = edit(v4, key)
                else:
                    v6 = edit(v6, key)
        return AddressSet(v4, v6)

    def inside(self, networks: Iterable[Network]) -> AddressSet:
        """Those of its addresses that lie in one of the networks, which are disjoint, sorted, IPv4 before IPv6."""
        v4: list[bytes] = []
        v6: list[bytes] = []
        for network in networks:
            data = self.packed(network.version)
            start = find(data, network.network_address.packed)
            last = network.broadcast_address.packed
            end = find(data, last)
            end += len(last) if data[end : end + len(last)] == last else 0
            (v4 if network.version == 4 else v6).append(data[start:end])
        return AddressSet(b"".join(v4), b"".join(v6))


def _chunks(data: bytes, width: int) -> list[bytes]:
    return [data[i : i + width] for i in range(0, len(data), width)]


def _numbers(data: bytes) -> array[int]:
    """IPv4 addresses as numbers that sort like them: a tenth of the memory of their keys."""
    numbers = array("I", data)
    if byteorder == "little":
        numbers.byteswap()
    return numbers


def _ascending(data: bytes, width: int) -> bool:
    if width == 4:
        numbers = _numbers(data)
        return all(map(lt, numbers, islice(numbers, 1, None)))
    keys = _chunks(data, width)
    return all(map(lt, keys, islice(keys, 1, None)))


def _within(some: bytes, all_: bytes, width: int) -> bool:
    """Every key of `some` is one of `all_`. Few are looked up; many are compared as sets."""
    if len(some) * 16 < len(all_):
        return all(all_[(at := find(all_, key)) : at + width] == key for key in _chunks(some, width))
    if width == 4:
        return set(_numbers(some)) <= set(_numbers(all_))
    return set(_chunks(some, width)) <= set(_chunks(all_, width))


def _apart(a: bytes, b: bytes, width: int) -> tuple[bytes, bytes]:
    """What `b` has more, and what it has less."""
    mine, theirs = set(_chunks(a, width)), set(_chunks(b, width))
    return b"".join(sorted(theirs - mine)), b"".join(sorted(mine - theirs))


def _address(packed: bytes) -> Address:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def _middle(a: bytes, b: bytes, width: int) -> tuple[bytes, bytes]:
    """The two without the whole keys that they begin and end with in common."""
    low, high = 0, min(len(a), len(b)) // width
    while low < high:  # the longest common beginning
        half = (low + high + 1) // 2
        low, high = (half, high) if a[low * width : half * width] == b[low * width : half * width] else (low, half - 1)
    start = low * width
    low, high = 0, min(len(a), len(b)) // width - start // width
    while low < high:  # the longest common end of the rest
        half = (low + high + 1) // 2
        same = a[len(a) - half * width : len(a) - low * width] == b[len(b) - half * width : len(b) - low * width]
        low, high = (half, high) if same else (low, half - 1)
    return a[start : len(a) - low * width], b[start : len(b) - low * width]


def find(data: bytes, key: bytes) -> int:
    """Where `key` is in ascending joined keys of its length, or where it would have to be: an offset in bytes."""
    width = len(key)
    low, high = 0, len(data) // width
    while low < high:
        middle = (low + high) // 2
        if data[middle * width : middle * width + width] < key:
            low = middle + 1
        else:
            high = middle
    return low * width


def with_key(data: bytes, key: bytes) -> bytes:
    at = find(data, key)
    if data[at : at + len(key)] == key:
        return data
    whole = memoryview(data)
    return b"".join((whole[:at], key, whole[at:]))


def without(data: bytes, key: bytes) -> bytes:
    at = find(data, key)
    if data[at : at + len(key)] != key:
        return data
    whole = memoryview(data)
    return b"".join((whole[:at], whole[at + len(key) :]))
