"""A controller that cannot be reached, or refuses us: exit 3 and 4, with the cause in words."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from segctl.cli.exits import Exit
from segctl.cli.rpc_errors import MEANINGS

from tests.unit.segctl.cli.admin_server import ScriptedAdmin, serve
from tests.unit.segctl.cli.conftest import Cli
from tests.unit.segctl.cli.pki import Authority, write_config


@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK])
def test_every_status_has_a_meaning(cli: Cli, controller: ScriptedAdmin, code: grpc.StatusCode) -> None:
    controller.refusal = (code, "the words of the controller")
    ran = cli("whoami")
    assert ran.code == MEANINGS[code].exit_code != Exit.OK
    assert "the words of the controller" in ran.err
    assert ran.out == ""


def test_permission(cli: Cli, controller: ScriptedAdmin) -> None:
    controller.refusal = (grpc.StatusCode.PERMISSION_DENIED, "role viewer may not push")
    ran = cli("whoami")
    assert ran.code == Exit.NOT_PERMITTED
    assert "segctl whoami shows your role" in ran.err
    assert "segctl-controller admin remove NAME, then admin add NAME --role ROLE --out DIR" in ran.err


def test_nothing_listens(offline: Cli, authority: Authority, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        config = write_config(tmp_path / "c", unused.getsockname()[1], authority)
        ran = offline.with_config(config)("whoami")
    assert ran.code == Exit.UNREACHABLE
    assert "connection refused" in ran.err
    assert "systemctl start segctl-controller" in ran.err


def test_another_fleet_answers(offline: Cli, admin, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c", admin[1], Authority("other"))
    ran = offline.with_config(config)("whoami")
    assert ran.code == Exit.UNREACHABLE
    assert "the controller is not of the fleet 'other'" in ran.err
    assert "--config" in ran.err


@pytest.mark.parametrize("ours", [True, False])
def test_certificate_and_ca_are_of_two_fleets(
    offline: Cli, authority: Authority, admin, tmp_path: Path, ours: bool
) -> None:
    fleets = (authority, Authority("other")) if ours else (Authority("other"), authority)
    config = write_config(tmp_path / "c", admin[1], fleets[0], signer=fleets[1])
    ran = offline.with_config(config)("whoami")
    assert ran.code == Exit.UNREACHABLE
    assert "do not belong together" in ran.err
    assert "admin add" in ran.err


def test_grpc_adds_no_lines_of_its_own(admin, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c", admin[1], Authority("other"))
    command = [sys.executable, "-m", "segctl.cli", "--config", str(config), "whoami"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ran.returncode == Exit.UNREACHABLE
    assert [text[:2] for text in ran.stderr.splitlines()] == ["er", "→ "]


def test_our_certificate_has_expired(offline: Cli, authority: Authority, admin, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c", admin[1], authority, expires=timedelta(hours=-1))
    ran = offline.with_config(config)("whoami")
    assert ran.code == Exit.UNREACHABLE
    assert "your certificate has expired" in ran.err


def test_the_certificate_of_the_controller_has_expired(offline: Cli, authority: Authority, tmp_path: Path) -> None:
    port, stop = serve(ScriptedAdmin(), authority, timedelta(hours=-1))
    try:
        ran = offline.with_config(write_config(tmp_path / "c", port, authority))("whoami")
    finally:
        stop()
    assert ran.code == Exit.UNREACHABLE
    assert "the controller's certificate has expired" in ran.err


def test_key_and_certificate_do_not_belong_together(offline: Cli, authority: Authority, admin, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c", admin[1], authority)
    (config / "key.pem").write_bytes(authority.issue("spiffe://shop/admin/bob")[1])
    ran = offline.with_config(config)("whoami")
    assert ran.code == Exit.UNREACHABLE
    assert "cannot be used: key values mismatch" in ran.err


def test_what_listens_does_not_speak_tls(offline: Cli, authority: Authority, tmp_path: Path) -> None:
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)

        def answer() -> None:
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.recv(1)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            config = write_config(tmp_path / "c", server.getsockname()[1], authority)
            ran = offline.with_config(config)("whoami")
        finally:
            stop.set()
            thread.join()
    assert ran.code == Exit.UNREACHABLE
    assert "TLS" in ran.err


def test_errors_are_json_on_request(offline: Cli, tmp_path: Path) -> None:
    ran = offline.with_config(tmp_path / "absent")("whoami", "--json")
    error = json.loads(ran.err)["error"]
    assert (ran.code, ran.out) == (Exit.USAGE, "")
    assert error["exit_code"] == Exit.USAGE
    assert "no client configuration" in error["message"]
    assert "admin add" in error["mend"]
