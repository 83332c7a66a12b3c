"""The kernel's sockets through NETLINK_SOCK_DIAG (sock_diag(7)): a dump of those that accept, and one by its tuple.

A lookup takes about 0.03 ms, a dump of 8000 sockets 24 ms.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Final, Self

from segctl.errors import KernelError

from segctl_agent.facts.values import Address
from segctl_agent.nft.attributes import error_code

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, net/tcp_states.h
NETLINK_SOCK_DIAG: Final = 4
SOCK_DIAG_BY_FAMILY: Final = 20
SOCK_DESTROY: Final = 21
INET_DIAG_CGROUP_ID: Final = 21
TCP_CLOSE: Final = 7
TCP_LISTEN: Final = 10
_CONNECTED = sum(1 << state for state in range(1, 12) if state not in (6, TCP_CLOSE, TCP_LISTEN))  # 6: TIME_WAIT
_NLM_F_REQUEST = 0x1
_NLM_F_ACK = 0x4
_NLM_F_DUMP = 0x300
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NO_COOKIE = b"\xff" * 8

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port id
_REQUEST = struct.Struct("=BBBxI")  # struct inet_diag_req_v2: family, protocol, extensions, states
_PORTS = struct.Struct(">HH")
_INTERFACE = struct.Struct("=I")
_ATTRIBUTE = struct.Struct("=HH")
_OWNER = struct.Struct("=II")
# struct inet_diag_msg: 4 bytes, 48 of sockid, then expires, rqueue, wqueue, uid and inode of 4 each.
_MESSAGE_BYTES = 72
_COOKIE_OFFSET, _OWNER_OFFSET = 44, 64
_REPLY_SECONDS = 1.0

_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}


@dataclass(frozen=True, slots=True)
class SocketInfo:
    """`cgroup` is the id of the cgroup the socket was created in, 0 when the kernel does not tell; `inode` is the
    number in /proc/PID/fd, 0 for a socket that no process holds any more. `remote_port` is 0 for one without a fixed
    peer. `cookie`: what tells it from every other socket since boot."""

    protocol: str
    address: Address
    port: int
    state: int
    uid: int
    inode: int
    cgroup: int
    remote_port: int = 0
    cookie: bytes = bytes(8)


class SockDiag:
    """One sock_diag socket, blocking with a time limit: the kernel answers while it is asked. KernelError when it
    cannot."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
        except OSError as error:
            raise KernelError(f"no sock_diag (modprobe inet_diag tcp_diag udp_diag): {error.strerror}") from error
        self._socket.settimeout(_REPLY_SECONDS)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def listeners(self) -> Iterator[SocketInfo]:
        """TCP sockets that listen and UDP sockets without a fixed peer, of both families. May be left halfway."""
        return self._dumps((("tcp", 1 << TCP_LISTEN), ("udp", 1 << TCP_CLOSE)))

    def connections(self) -> Iterator[SocketInfo]:
        """TCP sockets with a peer, but for those that only wait for the end of their time, and all of UDP."""
        return self._dumps((("tcp", _CONNECTED), ("udp", 0xFFFF_FFFF)))

    def _dumps(self, wanted: Iterable[tuple[str, int]]) -> Iterator[SocketInfo]:
        """By protocol and states, of both families."""
        for protocol, states in wanted:
            for family in (socket.AF_INET, socket.AF_INET6):
                body = _REQUEST.pack(family, _PROTOCOLS[protocol], 0, states) + bytes(48)
                with SockDiag() as fresh:  # a dump that is left halfway keeps its netlink socket busy
                    yield from fresh._ask(protocol, body, _NLM_F_DUMP)

    def find(
        self, protocol: str, local: Address, local_port: int, remote: Address, remote_port: int, interface: int = 0
    ) -> SocketInfo | None:
        """The socket that sends or would receive this packet: a connected one before a listener. None when there is
        none. `protocol` is tcp or udp; `interface` is needed for sockets bound to one and for link-local addresses."""
        near, far = (local, local_port), (remote, remote_port)
        if protocol == "udp":
            near, far = far, near  # udp_diag looks up as if the packet had just come in
        body = _by_tuple(protocol, near, far, interface, _NO_COOKIE)
        return next(self._ask(protocol, body, 0), None)

    def destroy(self, found: SocketInfo, local: Address, local_port: int, remote: Address, remote_port: int) -> bool:
        """Ends the very socket that `find` gave for this tuple, as an error to whoever holds it (ECONNABORTED). False
        when it is gone. KernelError without CONFIG_INET_DIAG_DESTROY or CAP_NET_ADMIN."""
        body = _by_tuple(found.protocol, (local, local_port), (remote, remote_port), 0, found.cookie)
        self._sequence += 1
        request = _HEADER.pack(_HEADER.size + len(body), SOCK_DESTROY, _NLM_F_REQUEST | _NLM_F_ACK, self._sequence, 0)
        try:
            self._socket.send(request + body)
            while True:
                for kind, number, payload in _messages(self._socket.recv(65536)):
                    if kind == _NLMSG_ERROR and number == self._sequence:
                        return _destroyed(-struct.unpack_from("=i", payload)[0])
        except OSError as error:
            raise KernelError(f"cannot end a socket (CONFIG_INET_DIAG_DESTROY): {error.strerror or error}") from error

    def _ask(self, protocol: str, body: bytes, flags: int) -> Iterator[SocketInfo]:
        self._sequence += 1
        sequence = self._sequence
        request = _HEADER.pack(_HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | flags, sequence, 0)
        try:
            self._socket.send(request + body)
            more = True
            while more:
                more = False
                for kind, number, payload in _messages(self._socket.recv(65536)):
                    if number != sequence:  # a late answer to a question given up
                        more = True
                    elif kind == _NLMSG_ERROR:
                        _raise(payload)
                        return
                    elif kind == _NLMSG_DONE:
                        return
                    else:
                        more = bool(flags)
                        yield parse_message(protocol, payload)
        except OSError as error:
            raise KernelError(f"sock_diag did not answer: {error.strerror or error}") from error


def _by_tuple(
    protocol: str, source: tuple[Address, int], destination: tuple[Address, int], interface: int, cookie: bytes
) -> bytes:
    """struct inet_diag_req_v2 for one socket in any state."""
    family = socket.AF_INET if source[0].version == 4 else socket.AF_INET6
    return (
        _REQUEST.pack(family, _PROTOCOLS[protocol], 0, 0xFFFF_FFFF)
        + _PORTS.pack(source[1], destination[1])
        + source[0].packed.ljust(16, b"\0")
        + destination[0].packed.ljust(16, b"\0")
        + _INTERFACE.pack(interface)
        + cookie
    )


def _destroyed(code: int) -> bool:
    """ESTALE: another socket has its tuple now."""
    if code in (errno.ENOENT, errno.ESTALE):
        return False
    if code:
        raise OSError(code, os.strerror(code))
    return True


def _messages(buffer: bytes) -> Iterator[tuple[int, int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(buffer):
        length, kind, _, sequence, _ = _HEADER.unpack_from(buffer, offset)
        yield kind, sequence, buffer[offset + _HEADER.size : offset + length]
        offset += max(length + 3 & ~3, _HEADER.size)


def _raise(payload: bytes) -> None:
    """ENOENT says that there is no such socket (ENODEV: no such protocol yet), which is an answer."""
    number = error_code(payload)
    if number not in (0, errno.ENOENT, errno.ENODEV):
        raise OSError(number, os.strerror(number))


def parse_message(protocol: str, payload: bytes) -> SocketInfo:
    """struct inet_diag_msg and its attributes. KernelError when it is shorter than that."""
    if len(payload) < _MESSAGE_BYTES:
        raise KernelError(f"sock_diag answered with {len(payload)} bytes, expected {_MESSAGE_BYTES} at least")
    family, state = payload[0], payload[1]
    port, remote_port = _PORTS.unpack_from(payload, 4)
    address: Address = IPv4Address(payload[8:12]) if family == socket.AF_INET else IPv6Address(payload[8:24])
    uid, inode = _OWNER.unpack_from(payload, _OWNER_OFFSET)
    cgroup = 0
    offset = _MESSAGE_BYTES
    while offset + 4 <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < 4:
            break
        if kind == INET_DIAG_CGROUP_ID and offset + 12 <= len(payload):
            cgroup = struct.unpack_from("=Q", payload, offset + 4)[0]
        offset += length + 3 & ~3
    cookie = payload[_COOKIE_OFFSET : _COOKIE_OFFSET + 8]
    return SocketInfo(protocol, address, port, state, uid, inode, cgroup, remote_port, cookie)
