"""The conntrack table of this network namespace: dumps as a stream, and the end of one entry.

A socket is opened for each question, so a reader may be used from several threads.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from segctl.errors import KernelError

from segctl_agent.conntrack.decode import RowDecoder, messages
from segctl_agent.conntrack.values import ICMP, ICMPV6, ConntrackRow
from segctl_agent.nft.attributes import attribute, nested, u32

MAX_ROWS: Final = 1 << 20
"""Four times nf_conntrack_max of a common server."""

_NETLINK_NETFILTER = 12
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_HEADER = struct.Struct("=IHHII")
_CTA_TUPLE_ORIG, _CTA_MARK, _CTA_ID, _CTA_ZONE, _CTA_MARK_MASK = 1, 8, 12, 18, 21
_BUFFER = 1 << 16
_REPLY_SECONDS = 5.0
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")


@dataclass(slots=True)
class Tally:
    """What became of a dump: rows handed out, entries over the bound, entries that made no sense."""

    rows: int = 0
    left_out: int = 0
    malformed: int = 0


class ConntrackReader:
    """Reads IPv4 and IPv6 entries. Whatever the kernel refuses is a KernelError."""

    def __init__(self, max_rows: int = MAX_ROWS) -> None:
        self._max_rows = max_rows
        self._decoder = RowDecoder()

    def read(self, tally: Tally | None = None, *, mark: int = 0, mask: int = 0) -> Iterator[Sequence[ConntrackRow]]:
        """The table, a buffer of about 150 entries at a time, as each comes from the kernel. An entry that changes its
        place meanwhile may come twice. With `mask`, the kernel picks the entries whose mark under it is `mark`."""
        tally = tally if tally is not None else Tally()
        with _connected() as sock:
            wanted = u32(_CTA_MARK, mark) + u32(_CTA_MARK_MASK, mask) if mask else b""
            _send(sock, _GET, _REQUEST | _DUMP, socket.AF_UNSPEC, wanted)
            buffer, more = bytearray(_BUFFER), True
            while more:
                rows: list[ConntrackRow] = []
                more = self._take(_receive(sock, buffer), rows, tally)
                if rows:
                    yield rows

    def _take(self, data: bytes, rows: list[ConntrackRow], tally: Tally) -> bool:
        """False at the end of the dump."""
        decode, room = self._decoder.row, self._max_rows - tally.rows
        for kind, _, _, body in messages(data):
            if kind in (_ERROR, _DONE):
                code = _code(body)
                if code:
                    raise _refused(code, "read the conntrack table")
                return False
            if len(rows) >= room:
                tally.left_out += 1
                continue
            row = decode(body)
            if row is None:
                tally.malformed += 1
            else:
                rows.append(row)
        tally.rows += len(rows)
        return True

    def count(self) -> int:
        """How many entries there are in this network namespace, as far as we may know."""
        try:
            return int(_COUNT.read_text())
        except (OSError, ValueError):
            return 0

    def delete(self, row: ConntrackRow) -> bool:
        """Ends this very entry. False when it is gone already, or another has its place."""
        family = socket.AF_INET if len(row.source) == 4 else socket.AF_INET6
        with _connected() as sock:
            # Without a tuple the kernel would delete the whole table.
            wanted = _tuple(row) + u32(_CTA_ID, row.id)
            if row.zone:
                wanted += attribute(_CTA_ZONE, struct.pack(">H", row.zone))
            _send(sock, _DELETE, _REQUEST | _ACK, family, wanted)
            for kind, _, _, body in messages(_receive(sock, bytearray(4096))):
                if kind == _ERROR:
                    code = _code(body)
                    if code in (errno.ENOENT, errno.ETIME):
                        return False
                    if code:
                        raise _refused(code, "delete a conntrack entry")
                    return True
        raise KernelError("conntrack did not say whether it deleted an entry: report this with the kernel's version")


def _tuple(row: ConntrackRow) -> bytes:
    first = 1 if len(row.source) == 4 else 3
    addresses = attribute(first, row.source) + attribute(first + 1, row.destination)
    source_port = struct.pack(">H", row.source_port)
    if row.protocol in (ICMP, ICMPV6):
        at = 4 if row.protocol == ICMP else 7
        ports = attribute(at, source_port)
        ports += attribute(at + 1, bytes([row.destination_port & 0xFF])) + attribute(at + 2, bytes([row.code]))
    else:
        ports = attribute(2, source_port) + attribute(3, struct.pack(">H", row.destination_port))
    protocol = attribute(1, bytes([row.protocol])) + ports
    return nested(_CTA_TUPLE_ORIG, nested(1, addresses), nested(2, protocol))


def _connected() -> socket.socket:
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        sock.settimeout(_REPLY_SECONDS)
        sock.bind((0, 0))
    except OSError as error:
        raise _refused(error.errno or 0, "open a netfilter netlink socket") from error
    return sock


def _send(sock: socket.socket, kind: int, flags: int, family: int, payload: bytes) -> None:
    header = _HEADER.pack(20 + len(payload), kind, flags, 1, 0) + struct.pack("=BBH", family, 0, 0)
    try:
        sock.send(header + payload)
    except OSError as error:
        raise _refused(error.errno or 0, "ask conntrack") from error


def _receive(sock: socket.socket, buffer: bytearray) -> bytes:
    try:
        return bytes(memoryview(buffer)[: sock.recv_into(buffer)])
    except TimeoutError as error:
        raise KernelError(f"conntrack did not answer within {_REPLY_SECONDS:g} s: ask again") from error
    except OSError as error:
        raise _refused(error.errno or 0, "read the conntrack table") from error


def _code(body: bytes) -> int:
    return -int(struct.unpack_from("=i", body)[0]) if len(body) >= 4 else errno.EIO


def _refused(code: int, what: str) -> KernelError:
    if code in (errno.EPERM, errno.EACCES):
        mend = "the agent needs CAP_NET_ADMIN in this network namespace"
    elif code in (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT):
        mend = "load the module nf_conntrack_netlink"
    else:
        mend = "it is tried again"
    return KernelError(f"cannot {what}: {os.strerror(code)}. {mend[0].upper()}{mend[1:]}")
