"""The floor of applying: nf_tables messages packed for one fixed set and nothing else.

No values, no comparison, no read-back: what it takes to hand N elements to the kernel from Python. Elements are packed
as in `shared/probes/rawnft.py`, which found no faster way: a template is repeated and the bytes of all keys are laid
over it by strided slices, without a loop over elements; the set has a `size`. Numbers are those of linux/netlink.h,
linux/netfilter/nfnetlink.h and linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END, _NLMSG_ERROR = 0x10, 0x11, 2
_NEWTABLE, _DELTABLE, _NEWSET, _NEWSETELEM = 0, 2, 9, 12
_REQUEST, _ACK, _CREATE = 0x1, 0x4, 0x400
_NESTED = 0x8000
_INET = 1
_SO_SNDBUFFORCE = 32

_KEY_TYPE = (7 << 6 | 12) << 6 | 13
"""ipv4_addr . inet_proto . inet_service, six bits each (enum datatypes of nftables)."""
_KEY_BYTES = 12
_ELEMENT_BYTES = 24
_ELEMENTS_A_MESSAGE = 2730
"""The length of an attribute has 16 bits."""


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) & 3)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack(">I", value))


def _message(kind: int, flags: int, payload: bytes, sequence: int, family: int = _INET, resource: int = 0) -> bytes:
    header = struct.pack("=IHHII", 20 + len(payload), kind, _REQUEST | flags, sequence, 0)
    return header + struct.pack(">BBH", family, 0, resource) + payload


def pack_elements(addresses: bytes, protocol: int, port: int) -> Iterator[bytes]:
    """Bodies of NFTA_SET_ELEM_LIST_ELEMENTS for address . protocol . port; addresses are 4 bytes each, in network
    order."""
    head = struct.pack("=HHHHHH", _ELEMENT_BYTES, 1 | _NESTED, _ELEMENT_BYTES - 4, 1 | _NESTED, 4 + _KEY_BYTES, 1)
    template = head + bytes(4) + struct.pack(">B3xH2x", protocol, port)
    for start in range(0, len(addresses), 4 * _ELEMENTS_A_MESSAGE):
        part = addresses[start : start + 4 * _ELEMENTS_A_MESSAGE]
        body = bytearray(template * (len(part) // 4))
        for byte in range(4):
            body[len(head) + byte :: _ELEMENT_BYTES] = part[byte::4]
        yield bytes(body)


class Packer:
    """A netlink socket in the network namespace of the thread that made it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 256 << 20)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def load(self, table: str, name: str, addresses: bytes, protocol: int, port: int) -> None:
        """Makes the table and the set and fills it, in one transaction; raises OSError when the kernel refuses."""
        key = _number(4, _KEY_TYPE) + _number(5, _KEY_BYTES)
        size = _attribute(9 | _NESTED, _number(1, len(addresses) // 4))
        names = _text(1, table) + _text(2, name)
        messages = [
            (_NEWTABLE, _CREATE, _text(1, table) + _number(2, 0)),
            (_NEWSET, _CREATE, names + key + size + _number(10, 1)),
        ]
        for body in pack_elements(addresses, protocol, port):
            messages.append((_NEWSETELEM, _CREATE, names + _attribute(3 | _NESTED, body)))  # noqa: PERF401
        self._commit(messages)

    def remove(self, table: str) -> None:
        self._commit([(_DELTABLE, 0, _text(1, table))])

    def _commit(self, messages: Sequence[tuple[int, int, bytes]]) -> None:
        self._sequence += 1
        number, last = self._sequence, len(messages) - 1
        parts = [_message(_BATCH_BEGIN, 0, b"", number, 0, _SUBSYSTEM)]
        for i, (kind, flags, payload) in enumerate(messages):
            flags |= _ACK if i == last else 0
            parts.append(_message(_SUBSYSTEM << 8 | kind, flags, payload, number))
        parts.append(_message(_BATCH_END, 0, b"", number, 0, _SUBSYSTEM))
        self._socket.send(b"".join(parts))
        while True:
            answer = self._socket.recv(1 << 16)
            kind, _, sequence = struct.unpack_from("=HHI", answer, 4)
            if kind == _NLMSG_ERROR and sequence == number:
                (error,) = struct.unpack_from("=i", answer, 16)
                if error:
                    raise OSError(-error, f"the kernel refused the packer's batch: {os.strerror(-error)}")
                return
