"""The keys of a set without data, packed: the element mapping that costs what its bytes cost.

A set of 100,000 addresses is 400 kB here, 15 MB as a dictionary; equality is one comparison of memory, and a set that
gained one key is one copy of memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from sys import byteorder

from segctl.model.addresses import find, with_key, without


class Keys(Mapping[bytes, None]):
    """Immutable. Every key has `width` bytes; they lie joined in `packed`, ascending, each once."""

    __slots__ = ("packed", "width")

    def __init__(self, width: int, packed: bytes = b"") -> None:
        self.width = width
        self.packed = packed

    @classmethod
    def of(cls, width: int, keys: Iterable[bytes]) -> Keys:
        return cls(width, b"".join(sorted(set(keys))))

    @classmethod
    def unsorted(cls, width: int, packed: bytes) -> Keys:
        """From keys in any order, as the kernel dumps them: each once."""
        if width == 4:
            numbers = array("I", packed)
            if byteorder == "little":
                numbers.byteswap()
            ordered = array("I", sorted(numbers))
            if byteorder == "little":
                ordered.byteswap()
            return cls(width, ordered.tobytes())
        return cls(width, b"".join(sorted(packed[i : i + width] for i in range(0, len(packed), width))))

    def changed(self, added: Iterable[bytes] = (), removed: Iterable[bytes] = ()) -> Keys:
        packed = self.packed
        for key in removed:
            packed = without(packed, key)
        for key in added:
            packed = with_key(packed, key)
        return Keys(self.width, packed)

    def __len__(self) -> int:
        return len(self.packed) // self.width

    def __iter__(self) -> Iterator[bytes]:
        return (self.packed[i : i + self.width] for i in range(0, len(self.packed), self.width))

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, bytes) or len(key) != self.width:
            return False
        at = find(self.packed, key)
        return self.packed[at : at + self.width] == key

    def __getitem__(self, key: bytes) -> None:
        if key not in self:
            raise KeyError(key)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Keys):
            return self.packed == other.packed and (self.width == other.width or not self.packed)
        return Mapping.__eq__(self, other)

    def __hash__(self) -> int:
        return hash(self.packed)

    def __repr__(self) -> str:
        return f"Keys({self.width}, {len(self)} of them)"


def strided(keys: bytes, width: int, template: bytes, at: int) -> bytearray:
    """`template` once for each key of `keys`, the key in it from `at` on: netlink elements, made without a loop."""
    count, stride = len(keys) // width, len(template)
    out = bytearray(template * count)
    for column in range(width):
        out[at + column :: stride] = keys[column::width]
    return out


def unstrided(data: bytes, width: int, stride: int, at: int) -> bytes | None:
    """The reverse of `strided`: the keys, or None when the bytes before them are not the same in every record."""
    if not data or stride <= 0 or len(data) % stride or at + width > stride:
        return None
    count = len(data) // stride
    fixed = (*range(at), *range(at + width, stride))
    if any(data[column::stride].count(data[column]) != count for column in fixed):
        return None
    out = bytearray(count * width)
    for column in range(width):
        out[column::width] = data[at + column :: stride]
    return bytes(out)
