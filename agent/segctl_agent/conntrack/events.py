"""Entries of the conntrack table as they are made: the kernel's NEW events, which it sends while somebody listens."""

from __future__ import annotations

import errno
import socket
from typing import Final

from segctl.errors import KernelError

from segctl_agent.conntrack.decode import RowDecoder, messages
from segctl_agent.conntrack.values import ConntrackRow

_NETLINK_NETFILTER = 12
_GROUP_NEW = 1  # the bit of NFNLGRP_CONNTRACK_NEW (linux/netfilter/nfnetlink_compat.h)
_BUFFER = 1 << 16
MOST_READS: Final = 64
"""Events of one read: each is a message of its own."""


class NewEntries:
    """A listener, from now until `close`. What it is too slow for is gone: the kernel drops events that find no room.
    Raises KernelError where the kernel refuses it."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
            self._socket.bind((0, _GROUP_NEW))
        except OSError as error:
            raise KernelError(f"cannot listen to conntrack's events (CAP_NET_ADMIN): {error.strerror}") from error
        self._socket.setblocking(False)
        self._decoder = RowDecoder()

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> list[ConntrackRow]:
        """Those that have come, MOST_READS at most. Never blocks. Raises KernelError."""
        rows: list[ConntrackRow] = []
        for _ in range(MOST_READS):
            try:
                data = self._socket.recv(_BUFFER)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # events were dropped
                    raise KernelError(f"conntrack's events broke off: {error.strerror}") from error
                continue
            rows += [row for _, _, _, body in messages(data) if (row := self._decoder.row(body)) is not None]
        return rows

    def close(self) -> None:
        self._socket.close()
