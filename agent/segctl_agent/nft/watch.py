"""Who else changes the ruleset: the kernel's own notifications (netlink group NFNLGRP_NFTABLES)."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from segctl_agent.nft.attributes import attributes, number, text
from segctl_agent.nft.messages import NEWGEN
from segctl_agent.nft.netlink import NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES, grow, kernel_error

_GROUP = 7
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
# The commands whose first attribute is the table's name; NEWGEN's is the generation.
_TABLE_ATTRIBUTE = 1


@dataclass(frozen=True, slots=True)
class TamperNotice:
    """One transaction. `pid` 0 and `process` "unknown": notifications were lost, so anything may have happened.

    `tables` are the names of the tables it touched, of any family; empty when that is not known.
    """

    generation: int
    pid: int
    process: str
    tables: frozenset[str] = frozenset()


UNKNOWN = TamperNotice(0, 0, "unknown")


class NftWatch:
    """Delivers a notice for every transaction in the network namespace in which it was made."""

    def __init__(
        self, notify: Callable[[TamperNotice], None], own_pid: int = 0, buffer: int = 8 << 20, own_port: int = 0
    ) -> None:
        """Transactions of the process `own_pid` are left out; 0 leaves out none. Those of the netlink port `own_port`
        the kernel does not even deliver: a large one of our own is as many notifications as it has elements."""
        self._notify = notify
        self._own_pid = own_pid
        self._tables: set[bytes] = set()
        self._cut = False  # notifications of the transaction that is being told were lost
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_NETFILTER
            )
            grow(self._socket, _SO_RCVBUFFORCE, socket.SO_RCVBUF, buffer)
            if own_port:
                _leave_out(self._socket, own_port)
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)
        except OSError as e:
            raise kernel_error(e.errno or 0, "subscribe to changes of nf_tables") from e

    def fileno(self) -> int:
        return self._socket.fileno()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_reader(self.fileno(), self.read)

    def stop(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self.fileno())

    def close(self) -> None:
        self._socket.close()

    def read(self) -> None:
        """Deliver what has arrived; never blocks."""
        while True:
            try:
                data = self._socket.recv(1 << 17)
            except BlockingIOError:
                return
            except OSError as e:
                if e.errno != errno.ENOBUFS:
                    raise kernel_error(e.errno or 0, "read changes of nf_tables") from e
                self._tables.clear()
                self._cut = True
                self._notify(UNKNOWN)
                continue
            for command, payload in _events(data):
                self._event(command, payload)

    def _event(self, command: int, payload: bytes) -> None:
        if command != NEWGEN:
            kind, value = next(attributes(payload), (0, b""))
            self._tables.add(value if kind == _TABLE_ATTRIBUTE else b"")
            return
        found = dict(attributes(payload))
        touched = frozenset() if self._cut else frozenset(map(text, self._tables))
        self._tables.clear()
        self._cut = False
        pid = number(found.get(2, b""))
        if pid != self._own_pid or not self._own_pid:
            self._notify(TamperNotice(number(found.get(1, b"")), pid, text(found.get(3, b"")), touched))


def _leave_out(sock: socket.socket, port: int) -> None:
    """A classic BPF program (linux/filter.h) that drops datagrams whose first nlmsghdr has nlmsg_pid `port`; a datagram
    of notifications is of one transaction. BPF loads words in network order."""
    swapped = int.from_bytes(struct.pack("=I", port), "big")
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 12),  # BPF_LD | BPF_W | BPF_ABS: nlmsg_pid
            (0x15, 0, 1, swapped),  # BPF_JMP | BPF_JEQ | BPF_K
            (0x06, 0, 0, 0),  # BPF_RET | BPF_K: drop
            (0x06, 0, 0, 0xFFFFFFFF),  # all of it
        )
    )
    code = array("B", program)  # struct sock_fprog holds its address; the kernel copies it
    address, length = code.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", length // 8, address))


def _events(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(nf_tables command, attributes) of each notification."""
    offset = 0
    while offset + 20 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        if length < 20:
            return
        if kind >> 8 == NFNL_SUBSYS_NFTABLES:
            yield kind & 0xFF, data[offset + 20 : offset + length]
        offset += (length + 3) & ~3
