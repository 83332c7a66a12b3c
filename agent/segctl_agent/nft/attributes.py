"""Netlink attributes: packing and parsing, without I/O (include/uapi/linux/netlink.h)."""

from __future__ import annotations

import errno
import struct
import sys
from collections.abc import Iterator

NLA_F_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_MAX_ERRNO = 4095
_HEADER = struct.Struct("=HH")


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to 4 bytes. `payload` is at most 65531 bytes."""
    length = 4 + len(payload)
    return _HEADER.pack(length, kind) + payload + b"\0" * (-length & 3)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def u32(kind: int, value: int) -> bytes:
    """An unsigned 32 bit attribute in network order, as nf_tables wants it."""
    return attribute(kind, struct.pack(">I", value))


def u64(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">Q", value))


def string(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode(errors="surrogateescape") + b"\0")


def attributes(data: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """The attributes in `data` from `start`, as (type without flags, payload)."""
    end = len(data)
    while start + 4 <= end:
        length, kind = _HEADER.unpack_from(data, start)
        if length < 4:
            return
        yield kind & _TYPE_MASK, data[start + 4 : start + length]
        start += (length + 3) & ~3


def number(payload: bytes) -> int:
    """A number in network order, of any width."""
    return int.from_bytes(payload, "big")


def error_code(payload: bytes) -> int:
    """The errno of an acknowledgement (struct nlmsgerr), 0 for success. EBADMSG when it is cut short or no errno, of
    which there are at most 4095 (linux/err.h)."""
    code = -int.from_bytes(payload[:4], sys.byteorder, signed=True)
    return code if len(payload) >= 4 and 0 <= code <= _MAX_ERRNO else errno.EBADMSG


def text(payload: bytes) -> str:
    """A name. nf_tables takes any bytes for one: what is no UTF-8 becomes lone surrogates, so that `string` writes the
    same bytes and the object can be removed."""
    return payload.rstrip(b"\0").decode(errors="surrogateescape")
