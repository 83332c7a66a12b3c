"""Packets that our log rules hand over: nfnetlink_log (linux/netfilter/nfnetlink_log.h) without a library.

The kernel hands every packet over on its own while there are few, so that none waits; while there are many it gathers
them for up to 10 ms, which costs a fifth for each. Parsing with struct reads 200,000 packets a second and more on one
core; pyroute2 reads 30,000.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from segctl.errors import KernelError

from segctl_agent.denials.prefix import NFLOG_GROUP, Prefix, decode
from segctl_agent.denials.values import LoggedPacket

COPY_BYTES: Final = 96
"""An IPv6 header, some extension headers and the ports."""
SOCKET_BUFFER_BYTES: Final = 64 << 20
READS_PER_WAKE: Final = 64
READ_BYTES: Final = 131_072
"""The largest message of nfnetlink_log: NFULNL_NLBUFSIZ_MAX of net/netfilter/nfnetlink_log.c."""

FLOOD_PACKETS: Final = 32
"""Messages that wait in the socket at once: from then on the kernel gathers."""
CALM_PER_SECOND: Final = 2000
"""Below this rate it does not, judged once a second."""


class Pace(NamedTuple):
    """How many packets the kernel gathers, in how large a buffer (allocated for each message, and held against the
    socket's), and for how long at most."""

    packets: int
    buffer_bytes: int
    flush_centiseconds: int


SINGLE = Pace(1, 2048, 1)
GATHERED = Pace(256, 65_536, 1)

NETLINK_NETFILTER: Final = 12
_NFNL_SUBSYS_ULOG = 4
_MSG_PACKET = _NFNL_SUBSYS_ULOG << 8
_MSG_CONFIG = _NFNL_SUBSYS_ULOG << 8 | 1
_NLMSG_ERROR = 2
_REQUEST, _ACK = 0x1, 0x4
# Attributes of a configuration message.
_CFG_CMD, _CFG_MODE, _CFG_NLBUFSIZ, _CFG_TIMEOUT, _CFG_QTHRESH, _CFG_FLAGS = 1, 2, 3, 4, 5, 6
_CMD_BIND = 1
_COPY_PACKET = 2
_FLAG_SEQUENCE = 1
# Attributes of a packet.
_TIMESTAMP, _INDEV, _OUTDEV, _PAYLOAD, _PREFIX, _UID, _SEQ, _GID = 3, 4, 5, 9, 10, 11, 12, 14
_SO_RCVBUFFORCE = 33

_INSTANCES = Path("/proc/net/netfilter/nfnetlink_log")
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH").unpack_from
_U32 = struct.Struct(">I").unpack_from
_TIME = struct.Struct(">QQ").unpack_from


class NflogReader:
    """Reads one NFLOG group of this network namespace. KernelError when the kernel refuses it.

    missed: packets that the kernel could not hand over, by the gaps in its numbering. overruns: how often the socket's
    buffer was full. foreign: packets of the group that no rule of ours logged.
    """

    def __init__(self, group: int = NFLOG_GROUP, buffer_bytes: int = SOCKET_BUFFER_BYTES) -> None:
        self.missed = 0
        self.overruns = 0
        self.foreign = 0
        self.gathering = False
        self._group = group
        self._buffer = bytearray(READ_BYTES)
        self._since = 0.0
        self._read_since = 0
        self._expected = 0  # the kernel counts from 0 once it is told to
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        try:
            self._socket.bind((0, 0))
            self._set_buffer(buffer_bytes)
            self._configure(_attribute(_CFG_CMD, bytes([_CMD_BIND])))
            self._configure(
                _attribute(_CFG_MODE, struct.pack(">IBx", COPY_BYTES, _COPY_PACKET))
                + _pace_attributes(SINGLE)
                + _attribute(_CFG_FLAGS, struct.pack(">H", _FLAG_SEQUENCE))
            )
        except OSError as error:
            self._socket.close()
            raise KernelError(_explain(group, error)) from error
        self._socket.setblocking(False)

    def start(self, loop: asyncio.AbstractEventLoop, on_packets: Callable[[list[LoggedPacket]], None]) -> None:
        """Call `on_packets` from the loop's reader, a bounded number of packets at a time."""
        self._loop = loop
        loop.add_reader(self._socket.fileno(), lambda: on_packets(self.read()))

    def close(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._socket.fileno())
        self._loop = None
        self._socket.close()

    def read(self, reads: int = READS_PER_WAKE) -> list[LoggedPacket]:
        """What has arrived, of at most `reads` reads of the socket. Never blocks."""
        packets: list[LoggedPacket] = []
        messages = 0
        for _ in range(reads):
            try:
                size = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError(f"NFLOG group {self._group} broke off: {error.strerror}") from error
                self.overruns += 1
                continue
            messages += 1
            self._take(bytes(memoryview(self._buffer)[:size]), packets)
        self._adapt(messages, len(packets))
        return packets

    def _adapt(self, messages: int, packets: int) -> None:
        """Gather while there are many, as a network card does with its interrupts."""
        now = time.monotonic()
        if not self.gathering:
            if messages >= FLOOD_PACKETS:
                self._since, self._read_since = now, 0
                self._set_pace(GATHERED)
            return
        self._read_since += packets
        if now - self._since >= 1.0:
            if self._read_since < CALM_PER_SECOND * (now - self._since):
                self._set_pace(SINGLE)
            self._since, self._read_since = now, 0

    def _set_pace(self, pace: Pace) -> None:
        """Without an answer, which would come between packets. The kernel refuses nothing here that it took once."""
        try:
            self._socket.send(self._configuration(_pace_attributes(pace), _REQUEST))
        except OSError:  # out of buffers: the next read tries again
            return
        self.gathering = pace is GATHERED

    def _take(self, buffer: bytes, packets: list[LoggedPacket]) -> None:
        now_us = time.time_ns() // 1000
        offset, size = 0, len(buffer)
        while offset + 20 <= size:
            length, kind = struct.unpack_from("=IH", buffer, offset)
            if length < 20 or offset + length > size:
                break
            if kind == _MSG_PACKET:
                sequence, packet = parse_message(buffer, offset + 20, offset + length, now_us)
                self._count(sequence)
                if packet is None:
                    self.foreign += 1
                else:
                    packets.append(packet)
            offset += length + 3 & ~3

    def _count(self, sequence: int | None) -> None:
        if sequence is None:
            return
        self.missed += sequence - self._expected & 0xFFFF_FFFF
        self._expected = sequence + 1 & 0xFFFF_FFFF

    def _set_buffer(self, size: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def _configure(self, attributes: bytes) -> None:
        self._socket.send(self._configuration(attributes, _REQUEST | _ACK))
        kind = 0
        while kind != _NLMSG_ERROR:  # packets may come before the answer once the group is bound
            reply = self._socket.recv(READ_BYTES)
            kind = _HEADER.unpack_from(reply)[1]
        number = -struct.unpack_from("=i", reply, _HEADER.size)[0]
        if number:
            raise OSError(number, os.strerror(number))

    def _configuration(self, attributes: bytes, flags: int) -> bytes:
        body = struct.pack(">BBH", 0, 0, self._group) + attributes
        return _HEADER.pack(_HEADER.size + len(body), _MSG_CONFIG, flags, 0, 0) + body


@lru_cache(maxsize=1024)
def _decode(raw: bytes) -> Prefix | None:
    with contextlib.suppress(UnicodeDecodeError):
        return decode(raw.rstrip(b"\0").decode("ascii"))
    return None


def parse_message(buffer: bytes, start: int, end: int, now_us: int) -> tuple[int | None, LoggedPacket | None]:
    """The attributes between two offsets: (sequence number or None, packet or None when it is not ours)."""
    prefix: Prefix | None = None
    payload = b""
    numbers: dict[int, int] = {}
    at_us = now_us
    offset = start
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE(buffer, offset)
        if length < 4 or offset + length > end:
            break
        value = offset + 4
        if kind == _PAYLOAD:
            payload = buffer[value : offset + length]
        elif kind == _PREFIX:
            prefix = _decode(buffer[value : offset + length])
        elif kind == _TIMESTAMP and length >= 20:
            seconds, microseconds = _TIME(buffer, value)
            at_us = seconds * 1_000_000 + microseconds
        elif length == 8:
            numbers[kind] = _U32(buffer, value)[0]
        offset += length + 3 & ~3
    sequence = numbers.get(_SEQ)
    if prefix is None:
        return sequence, None
    return sequence, LoggedPacket(
        prefix, payload, numbers.get(_UID), numbers.get(_GID), at_us, numbers.get(_INDEV, 0), numbers.get(_OUTDEV, 0)
    )


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _pace_attributes(pace: Pace) -> bytes:
    return (
        _attribute(_CFG_NLBUFSIZ, struct.pack(">I", pace.buffer_bytes))
        + _attribute(_CFG_TIMEOUT, struct.pack(">I", pace.flush_centiseconds))
        + _attribute(_CFG_QTHRESH, struct.pack(">I", pace.packets))
    )


def _is_bound(group: int) -> bool:
    """Whether someone reads the group in this network namespace, as far as we may know."""
    try:
        lines = _INSTANCES.read_text().splitlines()
    except OSError:
        return False
    return any(line.split()[0] == str(group) for line in lines if line.strip())


def _explain(group: int, error: OSError) -> str:
    # The kernel answers EPERM to both (nfulnl_recv_config of net/netfilter/nfnetlink_log.c).
    if error.errno in (errno.EPERM, errno.EBUSY) and _is_bound(group):
        return (
            f"NFLOG group {group} is read by another process (another segctl-agent?): stop it; "
            "/proc/net/netfilter/nfnetlink_log shows its netlink port, as a rule its pid"
        )
    if error.errno == errno.EPERM:
        return f"no permission to read NFLOG group {group}: the agent needs CAP_NET_ADMIN"
    return f"cannot read NFLOG group {group} (modprobe nfnetlink_log): {error.strerror}"
