"""TLS 1.3 and nothing older, at every listener of the real process."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.controller_harness import SECONDS, init_state


def _free_ports(number: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [listener.getsockname()[1] for listener in taken]
    for listener in taken:
        listener.close()
    return ports


def _version(port: int, version: ssl.TLSVersion, operator: Path) -> str | None:
    """What a client of this version gets: with a certificate, so that nothing but the version is refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(operator / "ca.pem")
    context.load_cert_chain(operator / "cert.pem", operator / "key.pem")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    plain = socket.create_connection(("127.0.0.1", port), SECONDS)
    with plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
        if secured.selected_alpn_protocol() == "http/1.1":
            secured.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert secured.recv(1)  # the server's first word: it took us
        return secured.version()


def test_no_listener_speaks_tls_1_2(tmp_path: Path) -> None:
    state = init_state(tmp_path)
    ports = dict(zip(("port", "enrol_port", "api_port", "web"), _free_ports(4), strict=True))
    file = state / "controller.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **ports, "web": {"port": ports["web"]}}))
    command = [sys.executable, "-m", "segctl_controller.main", "run", "--state", str(state), "--metrics", "off"]
    weaker = {"GRPC_SSL_CIPHER_SUITES": "ECDHE-ECDSA-AES256-GCM-SHA384"}  # would let TLS 1.2 in, were it heard
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=weaker) as running:
        try:
            assert running.stderr is not None
            deadline = time.monotonic() + 3 * SECONDS
            while "ready" not in running.stderr.readline():
                assert running.poll() is None
                assert time.monotonic() < deadline
            for name, port in ports.items():
                operator = tmp_path / "operators" / "root"
                assert _version(port, ssl.TLSVersion.TLSv1_3, operator) == "TLSv1.3", name
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    _version(port, ssl.TLSVersion.TLSv1_2, operator)
            # SIGTERM is the controller's, with the web server in its loop and a browser's connection open.
            with socket.create_connection(("127.0.0.1", ports["web"]), SECONDS):
                running.terminate()
                assert running.wait(SECONDS) == 0
        finally:
            running.kill()
