"""One nfnetlink socket: batches (all or nothing), dumps and the generation number."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from segctl.errors import KernelError, KernelFormError, KernelFullError

from segctl_agent.nft.attributes import attributes, error_code, number, text
from segctl_agent.nft.messages import GETGEN, Message

NETLINK_NETFILTER = 12
NFNL_SUBSYS_NFTABLES = 10
NFPROTO_UNSPEC, NFPROTO_INET = 0, 1
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_ERROR, _DONE, _BATCH_BEGIN, _BATCH_END = 2, 3, 0x10, 0x11
_REQUEST, _ACK, _DUMP, _DUMP_INTERRUPTED, _ACK_TLVS = 0x1, 0x4, 0x300, 0x10, 0x200
_HEADER = struct.Struct("=IHHII")


class DumpInterruptedError(KernelError):
    """The kernel's state changed under a dump: read again."""

    def __init__(self) -> None:
        super().__init__("nf_tables was changed while it was read: `nft monitor` shows by whom. It is tried again")


@dataclass(frozen=True, slots=True)
class Refusal:
    """What became of a batch. `code` 0: it was committed. `position`: of the message that was refused, -1 for the
    whole."""

    code: int
    position: int = -1
    why: str = ""


def frame(kind: int, flags: int, sequence: int, payload: bytes, resource: int = 0, family: int = NFPROTO_INET) -> bytes:
    """struct nlmsghdr and struct nfgenmsg before the attributes."""
    return (
        _HEADER.pack(20 + len(payload), kind, flags, sequence, 0)
        + struct.pack("=BBH", family, 0, socket.htons(resource))
        + payload
    )


class Netlink:
    """Works in the network namespace in which it was made. Not for use by several threads at once."""

    def __init__(self, buffer: int = 256 << 20) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        except OSError as e:
            raise kernel_error(e.errno or 0, "open a netfilter netlink socket") from e
        grow(self._socket, _SO_SNDBUFFORCE, socket.SO_SNDBUF, buffer)
        grow(self._socket, _SO_RCVBUFFORCE, socket.SO_RCVBUF, 8 << 20)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._socket.bind((0, 0))
        self._buffer = bytearray(1 << 17)
        self._sequence = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    @property
    def port(self) -> int:
        """Our netlink port id: what a notification names as the origin."""
        return int(self._socket.getsockname()[0])

    def batch(self, messages: Sequence[Message]) -> None:
        """Apply all messages or none. Raises KernelFullError or KernelError naming the first that was refused."""
        if not messages:
            return
        refusal = self.refusal(messages)
        if refusal.code:
            about = str(messages[refusal.position]) if refusal.position >= 0 else f"commit {len(messages)} messages"
            raise kernel_error(refusal.code, about, refusal.why)

    def refusal(self, messages: Sequence[Message]) -> Refusal:
        """Apply all messages or none, and answer what the kernel says. Raises KernelError when they cannot be sent."""
        first = self._sequence = self._sequence + 1
        parts = [frame(_BATCH_BEGIN, _REQUEST, first, b"", NFNL_SUBSYS_NFTABLES)]
        last = first + len(messages)
        for sequence, message in enumerate(messages, first + 1):
            flags = _REQUEST | message.flags | (_ACK if sequence == last else 0)
            parts.append(frame(NFNL_SUBSYS_NFTABLES << 8 | message.command, flags, sequence, message.payload))
        parts.append(frame(_BATCH_END, _REQUEST, last + 1, b"", NFNL_SUBSYS_NFTABLES))
        self._sequence = last + 1
        data = b"".join(parts)
        try:
            self._socket.send(data)
        except OSError as e:
            hint = f"send a transaction of {len(data)} bytes"
            raise kernel_error(e.errno or 0, hint) from e
        return self._outcome(len(messages), first)

    def _outcome(self, count: int, first: int) -> Refusal:
        """The kernel works on a batch inside send: every answer is already there."""
        acknowledged = False
        failure: tuple[int, int, str] | None = None
        while True:
            try:
                size = self._socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError as e:
                failure = failure or (first, e.errno or errno.ENOBUFS, "answers were lost")
                break
            for kind, flags, sequence, payload in _messages(bytes(self._buffer[:size])):
                if kind != _ERROR or not first <= sequence <= first + count:
                    continue
                code = error_code(payload)
                if code == 0:
                    acknowledged = acknowledged or sequence == first + count
                elif failure is None:
                    failure = (sequence, code, _explanation(flags, payload))
        if failure is None and acknowledged:
            return Refusal(0)
        sequence, code, why = failure or (first, errno.EIO, "the kernel did not answer")
        return Refusal(code, sequence - first - 1, why)

    def dump(self, command: int, payload: bytes = b"", *, optional: bool = False) -> list[bytes]:
        """The attributes of every object. Raises DumpInterruptedError, FileNotFoundError or KernelError.

        `optional`: a kernel that does not know this kind of object has none.
        """
        out: list[bytes] = []
        for kind, flags, _, body in self._ask(command, _REQUEST | _DUMP, payload, optional=optional):
            if flags & _DUMP_INTERRUPTED:
                self._drain()
                raise DumpInterruptedError
            if kind not in (_ERROR, _DONE):
                out.append(body[4:])
        return out

    def dump_families(self, command: int) -> Iterator[tuple[int, bytes]]:
        """(family, attributes) of every object of every table of every family, as they come. Who does not take them to
        the end must close this object: the kernel runs one dump a socket. Raises as `dump` does."""
        for kind, flags, _, body in self._ask(command, _REQUEST | _DUMP, b"", optional=True, family=NFPROTO_UNSPEC):
            if flags & _DUMP_INTERRUPTED:
                raise DumpInterruptedError
            if kind not in (_ERROR, _DONE):
                yield body[0], body[4:]

    def get(self, command: int, payload: bytes) -> list[bytes]:
        """The attributes of one object. Raises FileNotFoundError or KernelError."""
        answers = self._ask(command, _REQUEST, payload)
        return [body[4:] for kind, _, _, body in answers if kind not in (_ERROR, _DONE)]

    def generation(self) -> int:
        """The number of the ruleset's last change, by anyone, in this network namespace."""
        for kind, _, _, body in self._ask(GETGEN, _REQUEST, b""):
            if kind not in (_ERROR, _DONE):
                return next(number(v) for k, v in attributes(body, 4) if k == 1)
        raise KernelError("nf_tables gave no generation number: is the module nf_tables loaded?")

    def _ask(
        self, command: int, flags: int, payload: bytes, *, optional: bool = False, family: int = NFPROTO_INET
    ) -> Iterator[tuple[int, int, int, bytes]]:
        self._sequence += 1
        sequence = self._sequence
        try:
            self._socket.send(frame(NFNL_SUBSYS_NFTABLES << 8 | command, flags, sequence, payload, family=family))
        except OSError as e:
            raise kernel_error(e.errno or 0, "ask nf_tables") from e
        single = not flags & _DUMP
        while True:
            try:
                size = self._socket.recv_into(self._buffer)
            except OSError as e:
                if e.errno == errno.ENOBUFS:
                    raise DumpInterruptedError from e
                raise kernel_error(e.errno or 0, "read nf_tables") from e
            for kind, got, answered, body in _messages(bytes(self._buffer[:size])):
                if answered != sequence:
                    continue
                code = error_code(body) if kind == _ERROR or (kind == _DONE and body) else 0
                if code == errno.ENOENT:
                    raise FileNotFoundError(errno.ENOENT, "no such object in nf_tables")
                if code == errno.EOPNOTSUPP and optional:
                    return
                if code == errno.EINTR:
                    raise DumpInterruptedError
                if code:
                    raise kernel_error(code, "read nf_tables", _explanation(got, body))
                yield kind, got, answered, body
                if single or kind == _DONE:
                    return

    def _drain(self) -> None:
        while True:
            try:
                self._socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
            except OSError:
                return


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence, what follows the header) of each message."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < 16:
            return
        yield kind, flags, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _explanation(flags: int, payload: bytes) -> str:
    """The extended acknowledgement's text (NLMSGERR_ATTR_MSG), which follows the header of the refused message."""
    if not flags & _ACK_TLVS:
        return ""
    return next((text(v) for k, v in attributes(payload, 20) if k == 1), "")


def grow(sock: socket.socket, force: int, plain: int, size: int) -> None:
    """Ask for a large buffer; without CAP_NET_ADMIN the system's limit holds."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, plain, min(size, 4 << 20))


_MENDS = {
    errno.EPERM: "it needs CAP_NET_ADMIN in this network namespace, and a table that no other program owns: see "
    "`nft list tables` and docs/operations.md",
    errno.EACCES: "it needs CAP_NET_ADMIN in this network namespace",
    errno.EOPNOTSUPP: "this kernel has no nf_tables, or not this part of it: see docs/operations.md for the modules",
    errno.EPROTONOSUPPORT: "this kernel has no netfilter netlink: load the modules nfnetlink and nf_tables",
    errno.ENOENT: "the object does not exist, or a kernel module is missing: read the table again and retry",
    errno.EBUSY: "something still refers to it: read the table again and retry",
    errno.EEXIST: "it exists already in another form: read the table again and retry",
    errno.EINVAL: "the kernel does not take it in this form: report this with the kernel's version",
    errno.EMSGSIZE: "the transaction is larger than the socket's send buffer: CAP_NET_ADMIN lifts that limit",
    errno.ENOBUFS: "the transaction is larger than the socket's send buffer, or memory is short",
}

_ABOUT_THE_FORM = frozenset(
    (errno.EINVAL, errno.EOPNOTSUPP, errno.ERANGE, errno.E2BIG, errno.EOVERFLOW, errno.EPROTO, errno.ENAMETOOLONG)
)
"""What nf_tables answers to an attribute that it does not know, or not with this value."""


def kernel_error(code: int, about: str, why: str = "") -> KernelError:
    """The error for an errno: what was tried, what the kernel said, what to do."""
    said = os.strerror(code) + (f": {why}" if why else "")
    if code in (errno.ENFILE, errno.ENOSPC, errno.ENOMEM):
        return KernelFullError(f"cannot {about}: {said}. The set or the kernel's memory is full; nothing was changed")
    message = f"cannot {about}: {said}. {_MENDS.get(code, 'Nothing was changed')}"
    return KernelFormError(message, about) if code in _ABOUT_THE_FORM else KernelError(message)
