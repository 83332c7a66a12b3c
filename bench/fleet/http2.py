"""gRPC streams over one HTTP/2 connection with mutual TLS, at the least CPU that Python allows: no threads, no tasks.

A fleet of simulated agents shares its cores with the controller that it measures. grpc.aio takes 370 us of a client for
a message of 20 KB and its answer, more than of a server; this takes a quarter. It speaks what one server needs of RFC
9113 and of https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md: no padding, no push, no compression.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from struct import Struct

import grpc
import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
"""Types of frames: RFC 9113, section 6."""
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, PRIORITY = 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 0x1, 0x4
DEFAULT_WINDOW, FRAME_BYTES = 65_535, 16_384
WINDOW = 1 << 20
"""Bytes that the server may send ahead; about what gRPC's own estimate comes to on a fast network."""
KEEPALIVE_SECONDS = 3.0
"""As a real agent: without a word for so long a ping, and without its answer for as long again the end."""
READ_BYTES = 1 << 16
_HEAD = Struct(">BHBBI")
_MESSAGE = Struct(">BI")
_STATUS = {str(code.value[0]): code.name for code in grpc.StatusCode}


class Http2Error(Exception):
    """The connection cannot go on, or was not made."""


def client_context(ca: bytes, chain_file: str) -> ssl.SSLContext:
    """TLS 1.3 with the certificate and key in `chain_file`; trusts `ca` (PEM) alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(cadata=ca.decode())
    context.load_cert_chain(chain_file)
    return context


@dataclass(slots=True)
class Stream:
    """One call. `on_message` gets each message, `on_end` once the name of the status."""

    connection: Connection
    number: int
    on_message: Callable[[bytes], None]
    on_end: Callable[[str], None]
    window: int
    received: bytearray = field(default_factory=bytearray)
    waiting: bytearray = field(default_factory=bytearray)
    unread: int = 0

    def send(self, message: bytes) -> None:
        """At once, or when the server makes room for it. Nothing, when the stream has ended."""
        self.waiting += _MESSAGE.pack(0, len(message))
        self.waiting += message
        self.connection.flush(self)

    def take(self, data: bytes) -> None:
        self.received += data
        while len(self.received) >= _MESSAGE.size:
            _, length = _MESSAGE.unpack_from(self.received)
            end = _MESSAGE.size + length
            if len(self.received) < end:
                return
            message = bytes(memoryview(self.received)[_MESSAGE.size : end])
            del self.received[:end]
            self.on_message(message)


class Connection:
    """`await Connection.open(...)`, then `call`; everything else happens in callbacks of the loop."""

    def __init__(self, tls: ssl.SSLSocket, authority: str) -> None:
        self._tls, self._authority = tls, authority
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self._in, self._out, self._block = bytearray(), bytearray(), bytearray()
        self._window, self._initial = DEFAULT_WINDOW, DEFAULT_WINDOW
        self._unread = 0
        self._heard_at, self._pinged_at = self._loop.time(), 0.0
        self._headers = hpack.Decoder()
        self._trailers = self._reading = self._full = False
        self._why = "UNAVAILABLE"

    @classmethod
    async def open(cls, address: str, context: ssl.SSLContext) -> Connection:
        """To HOST:PORT. Raises OSError, of which ssl.SSLError is one; a caller sets the timeout."""
        host, _, port = address.rpartition(":")
        loop, plain = asyncio.get_running_loop(), socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET)
        try:
            plain.setblocking(False)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(plain, (host.strip("[]"), int(port)))
            tls = context.wrap_socket(plain, server_hostname=host.strip("[]"), do_handshake_on_connect=False)
        except BaseException:
            plain.close()
            raise
        try:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await _readable(tls)
            connection = cls(tls, address)
            connection._begin()
        except BaseException:
            tls.close()
            raise
        return connection

    def _begin(self) -> None:
        """Raises OSError."""
        settings = b"".join(
            key.to_bytes(2, "big") + value.to_bytes(4, "big")
            for key, value in ((HEADER_TABLE_SIZE, 0), (INITIAL_WINDOW_SIZE, WINDOW))
        )
        self._headers.max_allowed_table_size = 0
        opening = _frame(SETTINGS, 0, 0, settings) + _window_update(0, WINDOW - DEFAULT_WINDOW)
        self._write(PREFACE + opening)
        if self._tls.fileno() < 0:
            raise ConnectionResetError("the server hung up during the handshake")
        self._loop.add_reader(self._tls.fileno(), self._read)

    def call(self, path: str, on_message: Callable[[bytes], None], on_end: Callable[[str], None]) -> Stream:
        """Begin a bidirectional stream of the method /SERVICE/METHOD."""
        stream = Stream(self, self._next, on_message, on_end, self._initial)
        self._streams[stream.number] = stream
        self._next += 2
        headers = (
            (":method", "POST"),
            (":scheme", "https"),
            (":path", path),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "segctl-fleet"),
        )
        self._write(_frame(HEADERS, END_HEADERS, stream.number, b"".join(_literal(*header) for header in headers)))
        return stream

    def keepalive(self) -> None:
        """To be called now and then."""
        now = self._loop.time()
        if self._pinged_at:
            if now - self._pinged_at > KEEPALIVE_SECONDS:
                self.close("KEEPALIVE")
        elif now - self._heard_at >= KEEPALIVE_SECONDS:
            self._pinged_at = now
            self._write(_frame(PING, 0, 0, bytes(8)))

    def close(self, why: str = "CANCELLED") -> None:
        """Every stream ends with `why`."""
        if self._tls.fileno() >= 0:
            self._loop.remove_reader(self._tls.fileno())
            self._loop.remove_writer(self._tls.fileno())
            self._tls.close()
        while self._streams:
            self._end(next(iter(self._streams)), why)

    def flush(self, stream: Stream) -> None:
        """Send of what waits as much as both windows allow."""
        while stream.waiting and stream.number in self._streams:
            size = min(len(stream.waiting), self._window, stream.window, FRAME_BYTES)
            if size <= 0:
                return
            self._write(_frame(DATA, 0, stream.number, bytes(memoryview(stream.waiting)[:size])))
            del stream.waiting[:size]
            self._window -= size
            stream.window -= size

    # The socket

    def _write(self, data: bytes) -> None:
        """What answers the frames of one reading goes out together."""
        self._out += data
        if not self._reading and not self._full:
            self._send()

    def _send(self) -> None:
        if self._tls.fileno() < 0:
            return
        try:
            while self._out:
                del self._out[: self._tls.send(self._out)]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self._full = True
            self._loop.add_writer(self._tls.fileno(), self._send)
            return
        except OSError:
            self.close(self._why)
            return
        if self._full:
            self._full = False
            self._loop.remove_writer(self._tls.fileno())

    def _read(self) -> None:
        self._heard_at = self._loop.time()
        try:
            while data := self._tls.recv(READ_BYTES):
                self._in += data
            over = True
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            over = False
        except OSError:
            over = True
        self._reading = True
        try:
            self._frames()
        except (Http2Error, hpack.HPACKError):
            over = True
        finally:
            self._reading = False
        if over:
            self.close(self._why)
        elif self._out and not self._full:
            self._send()

    # Frames

    def _frames(self) -> None:
        at, data = 0, self._in
        while len(data) - at >= _HEAD.size:
            high, low, kind, flags, number = _HEAD.unpack_from(data, at)
            end = at + _HEAD.size + (high << 16) + low
            if len(data) < end:
                break
            self._take(kind, flags, number & 0x7FFF_FFFF, bytes(memoryview(data)[at + _HEAD.size : end]))
            at = end
        del data[:at]

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == DATA:
            self._data(flags, number, payload)
        elif kind in (HEADERS, CONTINUATION):
            self._header_block(kind, flags, number, payload)
        elif kind == WINDOW_UPDATE:
            self._room(number, int.from_bytes(payload, "big"))
        elif kind == PING:
            if flags & ACK:
                self._pinged_at = 0.0
            else:
                self._write(_frame(PING, ACK, 0, payload))
        elif kind == SETTINGS and not flags & ACK:
            self._settings(payload)
        elif kind == RST_STREAM:
            self._end(number, "RESET")
        elif kind == GOAWAY:
            self._why = "GOAWAY"

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        if flags & PADDED:
            raise Http2Error("padding")
        self._unread += len(payload)
        if self._unread > WINDOW // 2:
            self._write(_window_update(0, self._unread))
            self._unread = 0
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.unread += len(payload)
        if stream.unread > WINDOW // 2:
            self._write(_window_update(number, stream.unread))
            stream.unread = 0
        stream.take(payload)

    def _header_block(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if flags & (PADDED | PRIORITY):
            raise Http2Error("padding or priority")
        if kind == HEADERS:
            self._block = bytearray()
            self._trailers = bool(flags & END_STREAM)
        self._block += payload
        if not flags & END_HEADERS:
            return
        headers = dict(self._headers.decode(bytes(self._block), raw=True))
        if self._trailers:
            status = bytes(headers.get(b"grpc-status", b"2")).decode("ascii", "replace")
            self._end(number, _STATUS.get(status, status))

    def _settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            key, value = int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")
            if key == INITIAL_WINDOW_SIZE:
                for stream in self._streams.values():
                    stream.window += value - self._initial
                self._initial = value
        self._write(_frame(SETTINGS, ACK, 0, b""))
        self._room(0, 0)

    def _room(self, number: int, more: int) -> None:
        if number == 0:
            self._window += more
        elif number in self._streams:
            self._streams[number].window += more
        for stream in tuple(self._streams.values()):
            if stream.waiting:
                self.flush(stream)

    def _end(self, number: int, status: str) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            stream.on_end(status)


async def _readable(tls: ssl.SSLSocket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(tls.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(tls.fileno())


def _frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return _HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, number) + payload


def _window_update(number: int, more: int) -> bytes:
    return _frame(WINDOW_UPDATE, 0, number, more.to_bytes(4, "big"))


def _literal(name: str, value: str) -> bytes:
    """A header without compression: RFC 7541, section 6.2.2. Raises ValueError over 126 characters."""
    if max(len(name), len(value)) > 126:
        raise ValueError(f"header {name} is too long")
    return bytes((0, len(name))) + name.encode() + bytes((len(value),)) + value.encode()
