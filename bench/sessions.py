"""Two processes with a busy TCP and a busy UDP session between them, which tell when each end was cut off.

Each end sends a byte on each session every millisecond. A TCP session has ended for an end when its socket says so; a
UDP session has no end: what counts is the last datagram that arrived.
"""

from __future__ import annotations

import multiprocessing
import select
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from bench.policies import unit_path
from bench.sandbox import NetworkNamespace, join_cgroup
from bench.wire import SERVER, Wire

TICK = 0.001
Address = tuple[str, int]
# Of struct tcp_info, linux/tcp.h.
_TCP_INFO_BYTES, _TOTAL_RETRANS, _DSACK_DUPS, _OUT_OF_ORDER = 228, slice(100, 104), slice(216, 220), slice(224, 228)


@dataclass(slots=True)
class Seen:
    """Monotonic seconds; `tcp_end` is 0 while the session lives. The counts are of TCP segments.

    `resent`: sent again without the peer's word that it had them twice (RFC 2883). `gaps`: arrived ahead of one before.
    """

    tcp_end: float = 0.0
    udp_last: float = 0.0
    ticks: int = 0
    resent: int = 0
    gaps: int = 0


def lost(sender: Seen, receiver: Seen) -> int:
    """TCP segments from the one to the other that were lost on the way.

    A tick is a segment, and the next comes long before a lost one is sent again: what was lost leaves a gap with the
    receiver and is sent again. Each alone is a busy machine's: an answer later than the sender's patience, segments
    that overtook each other between two cores.
    """
    return min(sender.resent, receiver.gaps)


class End:
    """One end of a TCP and a UDP session. `peer` of the UDP one is who spoke last, when it is not known before."""

    def __init__(self, tcp: socket.socket, udp: socket.socket, peer: Address | None) -> None:
        self.seen = Seen()
        self._tcp, self._udp, self._peer = tcp, udp, peer
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a tick is a segment, whatever became of the last
        for sock in (tcp, udp):
            sock.setblocking(False)

    def tick(self) -> None:
        """Reads what there is until the next tick is due, then sends."""
        until = time.monotonic() + TICK
        while (left := until - time.monotonic()) > 0:
            open_ones = [self._udp] if self.seen.tcp_end else [self._udp, self._tcp]
            for sock in select.select(open_ones, [], [], left)[0]:
                self._read(sock)
        self.seen.ticks += 1
        if not self.seen.tcp_end:
            self._guarded(lambda: self._tcp.send(b"t"))
        if self._peer is not None:
            with suppress(OSError):  # refused: what counts is what arrives at the other end
                self._udp.sendto(b"u", self._peer)

    def _read(self, sock: socket.socket) -> None:
        if sock is self._tcp:
            self._guarded(lambda: self._tcp.recv(4096))
            return
        try:
            _, self._peer = sock.recvfrom(4096)
        except OSError:
            return  # an ICMP error, which says that the other end refuses
        self.seen.udp_last = time.monotonic()

    def _guarded(self, work: Callable[[], int | bytes]) -> None:
        try:
            if not work():
                self.seen.tcp_end = time.monotonic()
        except BlockingIOError:
            return
        except OSError:
            self.seen.tcp_end = time.monotonic()

    def close(self) -> Seen:
        info = self._tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        again, needless, self.seen.gaps = (
            int.from_bytes(info[part], sys.byteorder) for part in (_TOTAL_RETRANS, _DSACK_DUPS, _OUT_OF_ORDER)
        )
        self.seen.resent = max(0, again - needless)
        self._tcp.close()
        self._udp.close()
        return self.seen


def _client(source: str, port: int) -> End:
    tcp = socket.create_connection((str(SERVER), port), timeout=2, source_address=(source, 0))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((source, 0))
    return End(tcp, udp, (str(SERVER), port))


class Server:
    """Listens on a port of both protocols; one pair of sessions at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("", port))

    def accept(self) -> End:
        self._listener.settimeout(2)
        tcp, _ = self._listener.accept()
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("", self._port))
        return End(tcp, udp, None)


def _work(
    commands: Connection, namespace: NetworkNamespace, cgroup: str, make: Callable[[], Callable[[], End]]
) -> None:
    """Opens a session when told "open", ticks until told "close", and tells what it saw."""
    join_cgroup(cgroup)
    with namespace.entered():
        opener = make()
        commands.send("ready")
        while commands.recv() == "open":
            end = opener()
            commands.send("open")
            while not commands.poll():
                end.tick()
            commands.recv()
            commands.send(end.close())


class Sessions:
    """Use as a context manager. The server's process is in the cgroup of `server_unit`."""

    def __init__(self, wire: Wire, server_unit: str, client_unit: str, port: int, source: str) -> None:
        self._ends = (
            _start(wire.server, unit_path(server_unit), lambda: Server(port).accept),
            _start(wire.client, unit_path(client_unit), lambda: lambda: _client(source, port)),
        )

    def __enter__(self) -> Self:
        for commands, _ in self._ends:
            commands.recv()
        return self

    def open(self) -> None:
        """Returns when both ends have begun to send."""
        for commands, _ in self._ends:
            commands.send("open")
        for commands, process in self._ends:
            if not commands.poll(5):
                raise RuntimeError(f"the {process.name} end of a session did not open: is it permitted?")
            commands.recv()

    def close(self) -> tuple[Seen, Seen]:
        """(server, client)"""
        for commands, _ in self._ends:
            commands.send("close")
        server, client = (commands.recv() for commands, _ in self._ends)
        return server, client

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for commands, process in self._ends:
            commands.close()
            process.terminate()
            process.join()


def _start(
    namespace: NetworkNamespace, cgroup: str, make: Callable[[], Callable[[], End]]
) -> tuple[Connection, multiprocessing.process.BaseProcess]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, namespace, cgroup, make), daemon=True, name=cgroup)
    process.start()
    theirs.close()
    return ours, process
