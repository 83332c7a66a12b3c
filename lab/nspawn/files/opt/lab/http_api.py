"""The lab's Python API. GET / is its banner and, where it has a database, what is in it; GET /to/HOST:PORT makes it
connect there, as whoever broke into it would. It listens on --port, or on the socket that systemd passes
(sd_listen_fds(3)).
"""

import argparse
import os
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2  # type: ignore[import-untyped]


class Handler(BaseHTTPRequestHandler):
    server: "Server"

    def do_GET(self) -> None:
        try:
            self.answer(200, self.connected() if self.path.startswith("/to/") else self.page())
        except (OSError, psycopg2.Error) as error:
            self.answer(502, str(error).strip())

    def connected(self) -> str:
        host, _, port = self.path.removeprefix("/to/").rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=3):
            return "connected"

    def page(self) -> str:
        if not self.server.backend:
            return self.server.banner
        host, _, port = self.server.backend.rpartition(":")
        with psycopg2.connect(host=host, port=port, user="shop", dbname="shop", connect_timeout=3) as database:
            cursor = database.cursor()
            cursor.execute("select count(*), split_part(version(), ' ', 2) from orders")
            orders, version = cursor.fetchone()
        database.close()  # leaving its context only ends the transaction
        return f"{self.server.banner}: {orders} orders, postgres {version}"

    def answer(self, code: int, text: str) -> None:
        body = f"{text}\n".encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True

    def __init__(self, options: argparse.Namespace) -> None:
        self.banner: str = options.banner
        self.backend: str = options.backend
        passed = os.environ.get("LISTEN_PID") == str(os.getpid())
        super().__init__(("::", options.port), Handler, bind_and_activate=not passed)
        if passed:
            self.socket.close()
            self.socket = socket.socket(fileno=3)

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def notify(state: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.sendto(state.encode(), os.environ["NOTIFY_SOCKET"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--banner", default="")
    parser.add_argument("--backend", default="")
    server = Server(parser.parse_args())
    notify("READY=1")
    server.serve_forever()


main()
