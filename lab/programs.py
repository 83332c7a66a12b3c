"""The programs of the lab: small real servers and clients. Standard library only: `python -I -S programs.py COMMAND`.

Protocol of `serve`: it greets with its banner and a newline; the line `ask` is answered with the greeting of its
backend, which it fetches from its own process over the address family of the client; every other line comes back.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time

TCP_INFO_TOTAL_RETRANS = 100  # offset in struct tcp_info, linux/tcp.h
FAMILIES = {"4": socket.AF_INET, "6": socket.AF_INET6}


def notify(state: str) -> None:
    """sd_notify(3), to the socket of whoever started us, if anyone listens."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), path)


def connect(host: str, port: int, family: int, seconds: float, bind: str = "") -> socket.socket:
    """A TCP connection by a blocking connect(2), as most clients make it; raises OSError (TimeoutError when nothing
    answers in `seconds`)."""
    address = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4]
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), int(seconds % 1 * 1e6)))
    try:
        if bind:
            sock.bind((bind, 0))
        sock.connect(address)
    except BlockingIOError as error:  # socket(7): connect(2) fails so when the time is over
        sock.close()
        raise TimeoutError(f"no answer in {seconds:g} s") from error
    except OSError:
        sock.close()
        raise
    sock.settimeout(seconds)
    return sock


def ask_backend(backend: str, family: int) -> str:
    host, _, port = backend.rpartition(":")
    try:
        with connect(host, int(port), family, 2.5) as sock, sock.makefile("r") as lines:
            return lines.readline().strip() or "closed without an answer"
    except OSError as error:
        return f"no answer from {backend}: {error}"


class Answer(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        family = socket.AF_INET if self.client_address[0].startswith("::ffff:") else socket.AF_INET6
        self.wfile.write(f"{self.server.banner}\n".encode())
        for line in self.rfile:
            text = ask_backend(self.server.backend, family) if line.strip() == b"ask" else line.decode().strip()
            self.wfile.write(f"{text}\n".encode())

    def finish(self) -> None:
        with contextlib.suppress(OSError):  # the client went away, or its session was cut
            super().finish()


class Server(socketserver.ThreadingTCPServer):
    """One listener for IPv4 and IPv6."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, banner: str, backend: str) -> None:
        self.banner, self.backend = banner, backend
        super().__init__(("::", port), Answer)

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def serve(options: argparse.Namespace) -> int:
    with Server(options.port, options.banner, options.backend) as server:
        notify("READY=1")
        server.serve_forever()
    return 0


def idle(_: argparse.Namespace) -> int:
    notify("READY=1")
    signal.pause()
    return 0


def call(options: argparse.Namespace) -> int:
    """One connection: prints what came back, or how it failed; exit code 0 when it was answered."""
    started = time.monotonic()
    try:
        with connect(options.host, options.port, FAMILIES[options.family], options.timeout, options.bind) as sock:
            stream = sock.makefile("rw")
            answer = stream.readline().strip()
            if options.say:
                stream.write(f"{options.say}\n")
                stream.flush()
                answer = f"{answer}: {stream.readline().strip()}"
    except TimeoutError:
        print(f"no answer from {options.host}:{options.port} in {options.timeout:g} s")
        return 1
    except OSError as error:
        print(f"{options.host}:{options.port}: {error.strerror or error} after {time.monotonic() - started:.1f} s")
        return 1
    print(answer)
    return 0


def reach(options: argparse.Namespace) -> int:
    """One connection to a server of whatever protocol; exit code 0 when it was made."""
    try:
        connect(options.host, options.port, FAMILIES[options.family], options.timeout).close()
    except OSError as error:
        print(f"{options.host}:{options.port}: {error.strerror or error}")
        return 1
    print("connected")
    return 0


def hold(options: argparse.Namespace) -> int:
    """One long session that speaks every 20 ms, or not at all: tells when it is connected, and when and how it was
    cut."""
    with connect(options.host, options.port, FAMILIES[options.family], options.timeout) as sock:
        stream = sock.makefile("rw")
        stream.readline()
        print("connected", flush=True)
        try:
            if options.silent:
                sock.settimeout(None)
            while True:
                if not options.silent:
                    stream.write("ping\n")
                    stream.flush()
                if not stream.readline():
                    print("cut: closed by the other end", flush=True)
                    return 0
                time.sleep(0.02)
        except OSError as error:
            print(f"cut: {error.strerror or error}", flush=True)
            return 0


LEAK_SECONDS = 0.04
"""What is let through is connected within a millisecond; waiting for the refusal would only mean fewer probes."""


class Watch:
    """Probes one target for as long as it may, and keeps every verdict that is not the one that must be."""

    def __init__(self, target: str, stop: threading.Event) -> None:
        self.target, self.stop = target, stop
        self.probes, self.wrong = 0, list[str]()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        must_pass, family, host, port = self.target.split(",")
        while not self.stop.is_set():
            seen = self.once(host, int(port), FAMILIES[family], must_pass == "open")
            self.probes += 1
            if seen:
                self.wrong.append(f"{time.time():.3f} {self.target}: {seen}")
            self.stop.wait(0.01)

    def once(self, host: str, port: int, family: int, must_pass: bool) -> str:
        try:
            with connect(host, port, family, 3.0 if must_pass else LEAK_SECONDS) as sock:
                info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
                lost = struct.unpack_from("=I", info, TCP_INFO_TOTAL_RETRANS)[0]
        except OSError as error:
            return str(error) if must_pass else ""
        if not must_pass:
            return "connected"
        return f"its first {lost} packets were lost" if lost else ""


def watch(options: argparse.Namespace) -> int:
    """Probe every target without end; on end of standard input print what was seen, as JSON."""
    stop = threading.Event()
    watches = [Watch(target, stop) for target in options.target]
    for one in watches:
        one.thread.start()
    print("watching", flush=True)
    sys.stdin.read()
    stop.set()
    for one in watches:
        one.thread.join()
    seen = {w.target: {"probes": w.probes, "count": len(w.wrong), "wrong": w.wrong[:20]} for w in watches}
    print(json.dumps(seen))
    return 0


BOUND_SECONDS = 3.0
"""How long a command may take to end once its input has."""


def bound(options: argparse.Namespace) -> int:
    """Run a command with our standard input, and end it when that ends: when who started it over ssh is gone."""
    with subprocess.Popen(options.command, stdin=subprocess.PIPE) as process:
        threading.Thread(target=feed, args=(process,), daemon=True).start()
        return process.wait()


def feed(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError, ValueError), process.stdin as pipe:
        while block := os.read(0, 65536):
            pipe.write(block)
            pipe.flush()
    try:
        process.wait(BOUND_SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="programs.py", description=__doc__)
    commands = top.add_subparsers(required=True)
    one = commands.add_parser("serve")
    one.add_argument("port", type=int)
    one.add_argument("--banner", default="hello")
    one.add_argument("--backend", default="")
    one.set_defaults(run=serve)
    commands.add_parser("idle").set_defaults(run=idle)
    for name, function in (("call", call), ("reach", reach), ("hold", hold)):
        one = commands.add_parser(name)
        one.add_argument("host")
        one.add_argument("port", type=int)
        one.add_argument("--family", choices=("4", "6"), default="4")
        one.add_argument("--timeout", type=float, default=3.0)
        one.add_argument("--say", default="")
        one.add_argument("--bind", default="")
        one.add_argument("--silent", action="store_true")
        one.set_defaults(run=function)
    one = commands.add_parser("watch", help="TARGET: open|closed,4|6,HOST,PORT")
    one.add_argument("target", nargs="+")
    one.set_defaults(run=watch)
    one = commands.add_parser("bound")
    one.add_argument("command", nargs=argparse.REMAINDER)
    one.set_defaults(run=bound)
    return top


if __name__ == "__main__":
    arguments = parser().parse_args()
    try:
        sys.exit(arguments.run(arguments))
    except KeyboardInterrupt:
        sys.exit(130)
