"""Who else changes the ruleset: the kernel's own notifications (netlink group NFNLGRP_NFTABLES)."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from segctl_agent.nft.attributes import attributes, number, text
from segctl_agent.nft.messages import NEWGEN
from segctl_agent.nft.netlink import NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES, grow, kernel_error

_GROUP = 7
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SO_RCVBUFFORCE = 33
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

    def __init__(self, notify: Callable[[TamperNotice], None], own_pid: int = 0, buffer: int = 8 << 20) -> None:
        """Transactions of the process `own_pid` are left out; 0 leaves out none."""
        self._notify = notify
        self._own_pid = own_pid
        self._tables: set[str] = set()
        self._cut = False  # notifications of the transaction that is being told were lost
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_NETFILTER
            )
            grow(self._socket, _SO_RCVBUFFORCE, socket.SO_RCVBUF, buffer)
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
            table = next((text(v) for k, v in attributes(payload) if k == _TABLE_ATTRIBUTE), "")
            self._tables.add(table)
            return
        found = dict(attributes(payload))
        touched, self._tables = frozenset() if self._cut else frozenset(self._tables), set()
        self._cut = False
        pid = number(found.get(2, b""))
        if pid != self._own_pid or not self._own_pid:
            self._notify(TamperNotice(number(found.get(1, b"")), pid, text(found.get(3, b"")), touched))


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
