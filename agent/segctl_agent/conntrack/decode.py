"""ctnetlink messages to rows: pure, for any bytes.

The kernel writes entries of one kind with the same attributes in the same order. So the first of its kind is walked
attribute by attribute, and leaves a `_Shape`: where the headers of attributes lie, what they say, and one struct for
all fields. A later message whose headers are the same, compared as one number under a mask, needs no walk.

Format: linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Final, NamedTuple

from segctl_agent.conntrack.values import ConntrackRow

_FAMILY_HEADER: Final = 4  # struct nfgenmsg
_ATTRIBUTE = struct.Struct("=HH")
_MESSAGE = struct.Struct("=IHHI4x")  # struct nlmsghdr: length, type, flags, sequence
_TYPE_MASK = 0x3FFF
_MAX_SHAPES = 64

Path = tuple[int, ...]


def _tuple_fields(at: int, prefix: str) -> dict[Path, tuple[str, str]]:
    """CTA_TUPLE_IP (1) and CTA_TUPLE_PROTO (2) of a tuple."""
    source, destination = f"{prefix}source", f"{prefix}destination"
    port, service = f"{prefix}source_port", f"{prefix}destination_port"
    return {
        (at, 1, 1): (source, "4s"),
        (at, 1, 2): (destination, "4s"),
        (at, 1, 3): (source, "16s"),
        (at, 1, 4): (destination, "16s"),
        (at, 2, 2): (port, "H"),
        (at, 2, 3): (service, "H"),
        (at, 2, 4): (port, "H"),  # ICMP: identifier, type
        (at, 2, 5): (service, "B"),
        (at, 2, 7): (port, "H"),  # ICMPv6: identifier, type
        (at, 2, 8): (service, "B"),
    }


_LEAVES: Final[dict[Path, tuple[str, str]]] = {
    **_tuple_fields(1, ""),
    **_tuple_fields(2, "reply_"),
    (1, 2, 1): ("protocol", "B"),
    (1, 2, 6): ("code", "B"),
    (1, 2, 9): ("code", "B"),
    (3,): ("status", "I"),
    (4, 1, 1): ("tcp_state", "B"),
    (7,): ("timeout", "I"),
    (8,): ("mark", "I"),
    (9, 1): ("original_packets", "Q"),
    (9, 2): ("original_bytes", "Q"),
    (10, 1): ("reply_packets", "Q"),
    (10, 2): ("reply_bytes", "Q"),
    (12,): ("id", "I"),
    (18,): ("zone", "H"),
    (20, 1): ("started_ns", "Q"),
}
_NESTS: Final = frozenset(path[:depth] for path in _LEAVES for depth in range(1, len(path)))
_REQUIRED: Final = frozenset({"source", "destination", "protocol", "reply_source", "reply_destination"})
_DEFAULTS: Final = (0,) * len(ConntrackRow._fields)
_new_row = tuple.__new__


class _Shape(NamedTuple):
    mask: int
    headers: int
    unpack: Callable[[bytes], tuple[object, ...]]
    arrange: Callable[[tuple[object, ...]], tuple[object, ...]]


class RowDecoder:
    """Remembers the shapes of messages, a bounded number of them."""

    def __init__(self) -> None:
        self._shapes: dict[int, list[_Shape]] = {}
        self._known = 0

    def row(self, message: bytes) -> ConntrackRow | None:
        """The entry that `message` describes: struct nfgenmsg and attributes. None when it is malformed."""
        shapes = self._shapes.get(len(message))
        if shapes is not None:
            whole = int.from_bytes(message, "little")
            for mask, headers, unpack, arrange in shapes:
                if whole & mask == headers:
                    return _new_row(ConntrackRow, arrange(unpack(message) + _DEFAULTS))
        shape = _shape_of(message)
        if shape is None:
            return None
        if self._known >= _MAX_SHAPES:
            self._shapes.clear()
            self._known = 0
        self._shapes.setdefault(len(message), []).append(shape)
        self._known += 1
        return _new_row(ConntrackRow, shape.arrange(shape.unpack(message) + _DEFAULTS))


def _shape_of(message: bytes) -> _Shape | None:
    """How messages with these attributes are read. None when an attribute leaves its bounds, a field has another width
    than ours, an address is missing, or the two tuples are not of one family."""
    fields: dict[str, tuple[int, str]] = {}
    mask = bytearray(len(message))
    pending: list[tuple[int, int, Path]] = [(_FAMILY_HEADER, len(message), ())]
    while pending:
        at, end, parent = pending.pop()
        while at + 4 <= end:
            length, kind = _ATTRIBUTE.unpack_from(message, at)
            if length < 4 or at + length > end:
                return None
            mask[at : at + 4] = b"\xff\xff\xff\xff"
            path = (*parent, kind & _TYPE_MASK)
            if path in _NESTS:
                pending.append((at + 4, at + length, path))
            elif (leaf := _LEAVES.get(path)) is not None:
                name, form = leaf
                if length - 4 != struct.calcsize(">" + form):
                    return None
                fields[name] = (at + 4, form)
            at += (length + 3) & ~3
    if not fields.keys() >= _REQUIRED or len({fields[n][1] for n in _REQUIRED - {"protocol"}}) != 1:
        return None
    number = int.from_bytes(mask, "little")
    return _Shape(number, int.from_bytes(message, "little") & number, _reader(fields), _arrangement(fields))


def _in_place(fields: dict[str, tuple[int, str]]) -> list[str]:
    return sorted(fields, key=lambda name: fields[name][0])


def _reader(fields: dict[str, tuple[int, str]]) -> Callable[[bytes], tuple[object, ...]]:
    """One struct from the first byte on, with what lies between as padding."""
    form, at = ">", 0
    for name in _in_place(fields):
        offset, kind = fields[name]
        form += f"{offset - at}x{kind}"
        at = offset + struct.calcsize(">" + kind)
    return struct.Struct(form).unpack_from


def _arrangement(fields: dict[str, tuple[int, str]]) -> Callable[[tuple[object, ...]], tuple[object, ...]]:
    """From the order in the message, defaults behind it, to the order of the row."""
    place = {name: at for at, name in enumerate(_in_place(fields))}
    return itemgetter(*(place.get(name, len(place)) for name in ConntrackRow._fields))


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence, what follows the header) of each netlink message; ends where the bytes make no sense."""
    at, end = 0, len(data)
    while at + 16 <= end:
        length, kind, flags, sequence = _MESSAGE.unpack_from(data, at)
        if length < 16 or at + length > end:
            return
        yield kind, flags, sequence, data[at + 16 : at + length]
        at += (length + 3) & ~3
