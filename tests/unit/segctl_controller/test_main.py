"""The executable: init, run, admin; as a real process."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from segctl.logs import OneLine
from segctl.proto.v1 import admin_pb2, admin_pb2_grpc

from tests.controller_harness import Identity

COMMAND = (sys.executable, "-m", "segctl_controller.main")
SECONDS = 30


def controller(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=SECONDS)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def init(base: Path) -> dict[str, int]:
    ports = {"port": free_port(), "enrol": free_port()}
    done = controller(
        *("init", "--state", base / "state", "--listen", "127.0.0.1", "--name", "127.0.0.1", "--name", "localhost"),
        *("--port", str(ports["port"]), "--enrol-port", str(ports["enrol"])),
        *("--admin", "root", "--admin-out", base / "root"),
    )
    assert done.returncode == 0, done.stderr
    return ports


@contextmanager
def running(base: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, "run", "--state", str(base / "state")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip() == "ready":
                break
        else:
            pytest.fail("the controller ended before it was ready")
        yield process
    finally:
        process.kill()
        process.wait()


def who_am_i(directory: Path) -> admin_pb2.WhoAmIReply:
    identity = Identity.read(directory)
    client = json.loads((directory / "client.json").read_text())
    credentials = grpc.ssl_channel_credentials(identity.ca, identity.key, identity.certificate)
    with grpc.secure_channel(client["controller"], credentials) as channel:
        return admin_pb2_grpc.AdminStub(channel).WhoAmI(admin_pb2.WhoAmIRequest(), timeout=SECONDS)


def test_init_then_run_serves_the_first_operator_and_stops_on_sigterm(tmp_path: Path) -> None:
    init(tmp_path)
    with running(tmp_path) as process:
        reply = who_am_i(tmp_path / "root")
        assert (reply.name, reply.role) == ("root", "admin")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0


def test_private_files_are_the_owners_only(tmp_path: Path) -> None:
    init(tmp_path)
    for path in (tmp_path / "state" / "ca.key", tmp_path / "root" / "key.pem"):
        assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "state" / "ca.key").chmod(0o644)
    done = controller("run", "--state", tmp_path / "state")
    assert done.returncode == 1
    assert "chmod 600" in done.stderr


def test_init_never_overwrites(tmp_path: Path) -> None:
    init(tmp_path)
    key = (tmp_path / "state" / "ca.key").read_bytes()
    again = ("init", "--state", tmp_path / "state", "--listen", "::1", "--name", "x", "--admin", "root", "--admin-out")
    done = controller(*again, tmp_path / "new")
    assert done.returncode == 1
    assert "init never overwrites" in done.stderr
    assert (tmp_path / "state" / "ca.key").read_bytes() == key


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    ports = init(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports["port"]))
        taken.listen()
        done = controller("run", "--state", tmp_path / "state")
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{ports['port']}" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_controllers_cannot_share_a_port(tmp_path: Path) -> None:
    init(tmp_path)
    with running(tmp_path):
        shutil.copytree(tmp_path / "state", tmp_path / "copy")
        done = controller("run", "--state", tmp_path / "copy")
    assert done.returncode == 1
    assert "cannot listen on" in done.stderr


@pytest.mark.parametrize("name", ["controller.json", "ca.key", "ca.pem", "controller.db"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    init(tmp_path)
    (tmp_path / "state" / name).unlink()
    done = controller("run", "--state", tmp_path / "state")
    assert done.returncode == 1
    assert f"state/{name}" in done.stderr
    assert "Traceback" not in done.stderr


def test_operators_are_added_listed_and_removed_while_it_runs(tmp_path: Path) -> None:
    init(tmp_path)
    state = ("--state", tmp_path / "state")
    with running(tmp_path):
        assert controller("admin", "add", "ann", "--role", "viewer", "--out", tmp_path / "ann", *state).returncode == 0
        assert who_am_i(tmp_path / "ann").role == "viewer"
        again = controller("admin", "add", "ann", "--role", "admin", "--out", tmp_path / "ann2", *state)
        assert again.returncode == 1
        assert "'ann' exists already" in again.stderr
        assert not list((tmp_path / "ann2").glob("*.pem"))
        listed = controller("admin", "list", *state).stdout
        assert [line.split("\t")[:2] for line in listed.splitlines()] == [["ann", "viewer"], ["root", "admin"]]
        assert controller("admin", "remove", "ann", *state).returncode == 0
        with pytest.raises(grpc.RpcError) as caught:
            who_am_i(tmp_path / "ann")
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert controller("admin", "remove", "ann", *state).returncode == 1


def test_the_watchdog_is_fed_while_the_loop_turns(tmp_path: Path) -> None:
    init(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(SECONDS)
        with running(tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="200000"):
            assert listener.recv(200).startswith(b"READY=1\n")
            assert [listener.recv(200) for _ in range(3)] == [b"WATCHDOG=1"] * 3


def test_systemd_is_told_when_it_serves(tmp_path: Path) -> None:
    init(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(SECONDS)
        with running(tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify")) as process:
            assert listener.recv(200).startswith(b"READY=1\n")
            process.send_signal(signal.SIGHUP)
            assert listener.recv(200).startswith(b"RELOADING=1\n")
            assert listener.recv(200).startswith(b"READY=1\n")
            process.send_signal(signal.SIGTERM)
            assert listener.recv(200).startswith(b"STOPPING=1\n")


@pytest.mark.parametrize(("version", "agreed"), [(ssl.TLSVersion.TLSv1_2, False), (ssl.TLSVersion.TLSv1_3, True)])
def test_only_tls_1_3_is_spoken(tmp_path: Path, version: ssl.TLSVersion, agreed: bool) -> None:
    ports = init(tmp_path)
    context = ssl.create_default_context(cafile=str(tmp_path / "root" / "ca.pem"))
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    with running(tmp_path), socket.create_connection(("127.0.0.1", ports["enrol"]), SECONDS) as raw:
        if agreed:
            with context.wrap_socket(raw, server_hostname="localhost") as secure:
                assert secure.version() == "TLSv1.3"
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                context.wrap_socket(raw, server_hostname="localhost")


def test_a_log_line_cannot_be_forged() -> None:
    said = "x\nERROR segctl_controller: forged\x1b[2J\u202e"
    record = logging.LogRecord("segctl_controller", logging.INFO, "", 0, "event kind=%s", (said,), None)
    line = OneLine("%(levelname)s %(name)s: %(message)s").format(record)
    assert line == "INFO segctl_controller: event kind=x\\nERROR segctl_controller: forged\\x1b[2J\\u202e"
