"""The traffic that witnesses a run: what must never pass, what must always pass. Standard library only:
`python -I -S traffic.py COMMAND`, inside a lab host. What is wrong it prints, one JSON object a line with `at`, in Unix
time, and `wrong`, in words.

trap PORT                   a UDP listener that nobody may reach: tells each datagram that does
flood TARGET...             datagrams to `HOST,PORT`s that must not arrive, one each 10 ms; their count at end of input
visit FAMILY HOST PORT      new connections that must be served at once: tells each that is not
session FAMILY HOST PORT    one connection that speaks each 50 ms: tells when it is cut, and ends
knock FAMILY HOST PORT N    N connections that must be refused, each from a port of its own; their count at the end
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import threading
import time

FAMILIES = {"4": socket.AF_INET, "6": socket.AF_INET6}
TOTAL_RETRANS = 100  # offset in struct tcp_info, linux/tcp.h
FLOOD_SECONDS = 0.01
VISIT_SECONDS = 0.05
HANDSHAKE_SECONDS, ANSWER_SECONDS, PATIENCE = 3.0, 10.0, 60.0
ONE_SYN = 0.03
"""Less than the second after which a SYN is sent again: a refused connection is one packet."""


def say(**words: object) -> None:
    print(json.dumps({"at": round(time.time(), 3), **words}), flush=True)


def notify() -> None:
    """sd_notify(3): units of the lab say so that they are ready."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"READY=1", path)


def ready() -> None:
    notify()
    print("ready", flush=True)


def resolved(family: int, host: str, port: str, kind: int) -> tuple[object, ...]:
    return socket.getaddrinfo(host, int(port), family, kind)[0][4]


def trap(port: str) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", int(port)))
        ready()
        while True:
            _, sender = sock.recvfrom(2048)
            say(wrong=f"a datagram from {sender[0].removeprefix('::ffff:')} arrived")


def flood(*targets: str) -> None:
    ways = []
    for target in targets:
        host, port = target.split(",")
        for family in FAMILIES.values():
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.setblocking(False)
            ways.append((sock, resolved(family, host, port, socket.SOCK_DGRAM)))
    sent, stop = 0, threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    ready()
    while not stop.is_set():
        for sock, address in ways:
            with contextlib.suppress(OSError):  # refused by its own kernel, or an ICMP error about the one before
                sock.sendto(b"?", address)
            sent += 1
        time.sleep(FLOOD_SECONDS)
    say(sent=sent)


def connected(family: str, address: tuple[object, ...], seconds: float) -> socket.socket:
    sock = socket.socket(FAMILIES[family], socket.SOCK_STREAM)
    sock.settimeout(seconds)
    try:
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def visit(family: str, host: str, port: str) -> None:
    address = resolved(FAMILIES[family], host, port, socket.SOCK_STREAM)
    ready()
    while True:
        began = time.time()
        if wrong := visited(family, address):
            say(wrong=f"{host}:{port}: {wrong} after {time.time() - began:.1f} s", began=began)
        time.sleep(VISIT_SECONDS)


def visited(family: str, address: tuple[object, ...]) -> str:
    """What is wrong with one connection. The kernels shake hands by themselves; a server's first words may be late."""
    try:
        sock = connected(family, address, HANDSHAKE_SECONDS)
    except OSError as error:
        return f"no connection: {error}"
    with sock:
        lost = retransmitted(sock)
        if lost:
            return f"{lost} packets of the handshake were lost"
        sock.settimeout(ANSWER_SECONDS)
        try:
            return "" if sock.makefile().readline() else "connected, and closed without a word"
        except OSError as error:
            return f"connected, then no word: {error}, {retransmitted(sock)} packets sent again"


def retransmitted(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    return int(struct.unpack_from("=I", info, TOTAL_RETRANS)[0])


def session(family: str, host: str, port: str) -> None:
    address = resolved(FAMILIES[family], host, port, socket.SOCK_STREAM)
    with connected(family, address, PATIENCE) as sock:
        stream = sock.makefile("rw")
        stream.readline()
        ready()
        try:
            while True:
                stream.write("ping\n")
                stream.flush()
                if not stream.readline():
                    say(wrong=f"the session with {host}:{port} was closed by the other end")
                    return
                time.sleep(VISIT_SECONDS)
        except OSError as error:
            say(wrong=f"the session with {host}:{port} was cut: {error}")


def knock(family: str, host: str, port: str, times: str) -> None:
    address = resolved(FAMILIES[family], host, port, socket.SOCK_STREAM)
    ready()
    for _ in range(int(times)):
        try:
            connected(family, address, ONE_SYN).close()
        except OSError:
            continue
        say(wrong=f"{host}:{port} let a connection in")
    say(knocked=int(times))


COMMANDS = {"trap": trap, "flood": flood, "visit": visit, "session": session, "knock": knock}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
