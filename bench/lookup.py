"""Is an element in a set? One message each way, so that a loop of it sees a change within microseconds."""

from __future__ import annotations

import errno
import socket
import struct
from types import TracebackType
from typing import Self

from segctl_agent.nft.attributes import attribute, nested, string
from segctl_agent.nft.messages import GETSETELEM
from segctl_agent.nft.netlink import NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES, frame
from segctl_agent.nft.ruleset import TABLE

_REQUEST, _ERROR = 1, 2


class ElementLookup:
    """Of one set of our table, in the network namespace in which it was made."""

    def __init__(self, name: str) -> None:
        self._which = string(1, TABLE) + string(2, name)
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._socket.bind((0, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._socket.close()

    def holds(self, key: bytes) -> bool:
        """Raises OSError when the kernel answers anything but the element or that there is none."""
        payload = self._which + nested(3, nested(1, nested(1, attribute(1, key))))
        self._socket.send(frame(NFNL_SUBSYS_NFTABLES << 8 | GETSETELEM, _REQUEST, 1, payload))
        answer = self._socket.recv(4096)
        if struct.unpack_from("=H", answer, 4)[0] != _ERROR:
            return True
        code = -struct.unpack_from("=i", answer, 16)[0]
        if code == errno.ENOENT:
            return False
        raise OSError(code, f"cannot look up an element: {errno.errorcode.get(code, code)}")
