"""The small adapters: sd_notify, remembered addresses, the state folder, the command's errors."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from ipaddress import ip_address
from pathlib import Path

import pytest
from click.testing import CliRunner
from segctl.systemd import Notifier
from segctl_agent.endpoints import MAX_ADDRESSES, endpoints, load_remembered, remember, resolve_endpoints
from segctl_agent.facts.values import Endpoint
from segctl_agent.main import main
from segctl_agent.render.marks import DEFAULT_MASK
from segctl_agent.state import StateFolder


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_ready_status_and_watchdog(tmp_path: Path, abstract: bool) -> None:
    address = f"\0{tmp_path}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(address)
        link.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": address.replace("\0", "@"), "WATCHDOG_USEC": "30000000"})
        assert notifier.watchdog_seconds == 15
        notifier.ready("two\nlines")
        notifier.watchdog()
        notifier.status("x")
        notifier.stopping("bye")
        heard = [link.recv(4096).decode() for _ in range(4)]
        notifier.reloading("again")
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=[0-9]+\nSTATUS=again", link.recv(4096).decode())
    assert heard == ["READY=1\nSTATUS=two lines", "WATCHDOG=1", "STATUS=x", "STOPPING=1\nSTATUS=bye"]


def test_without_systemd_nothing_is_sent() -> None:
    notifier = Notifier({})
    assert notifier.watchdog_seconds is None
    notifier.ready("nobody listens")
    assert Notifier({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}).watchdog_seconds is None
    Notifier({"NOTIFY_SOCKET": "/nowhere/notify"}).ready("the manager is away")


def test_a_name_service_that_is_down_keeps_the_addresses_that_were_known(tmp_path: Path) -> None:
    controllers = ("ctl.example:7443", "192.0.2.2:7443", "[2001:db8::2]:7444")
    found = resolve_endpoints(controllers, {}, lambda host: {"ctl.example": ["192.0.2.1", "2001:db8::1"]}.get(host, []))
    remember(tmp_path, found)
    again = resolve_endpoints(controllers, load_remembered(tmp_path), lambda _: [])
    assert again == found
    assert endpoints(again) == (
        Endpoint(ip_address("192.0.2.1"), 7443),
        Endpoint(ip_address("192.0.2.2"), 7443),
        Endpoint(ip_address("2001:db8::1"), 7443),
        Endpoint(ip_address("2001:db8::2"), 7444),
    )


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 5}', '{"ctl:1": ["not an address"]}'])
def test_damaged_remembered_addresses_are_no_harm(tmp_path: Path, content: str) -> None:
    (tmp_path / "endpoints.json").write_text(content)
    assert endpoints(resolve_endpoints(("ctl:1",), load_remembered(tmp_path), lambda _: [])) == ()


def test_one_agent_a_state_folder(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    assert folder.lock_is_free()
    first = folder.lock()
    assert first is not None
    assert folder.lock() is None
    assert not folder.lock_is_free()


def test_the_status_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    assert folder.read_status() is None
    folder.write_status({"generation": 4})
    folder.write_status({"generation": 5})
    status = folder.read_status()
    assert status is not None
    assert status["generation"] == 5
    assert json.loads((tmp_path / "status.json").read_text())["updated"]


@pytest.mark.parametrize("command", ["run", "load", "status"])
def test_a_host_that_is_not_enrolled(tmp_path: Path, command: str) -> None:
    done = CliRunner().invoke(main, [command, "--state", str(tmp_path)])
    assert done.exit_code == 1
    assert "not enrolled" in done.stderr
    assert "segctl-agent enrol --token-file" in done.stderr


# Everything is imported before the rights are dropped: the repository may lie where nobody else can read.
AS_NOBODY = """
import os, sys
from segctl_agent import enrol, loop, main, standalone
os.setgroups([])
os.setresuid(65534, 65534, 65534)
main.main()
"""


@pytest.mark.parametrize("command", ["run", "load", "status", "release"])
def test_an_ordinary_user_is_told_so(tmp_path: Path, command: str) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, command, "--state", tmp_path / "state"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Permission denied" in done.stderr
    assert "root" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_token_from_stdin(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["enrol", "--token-file", "-", "--state", str(tmp_path)], input="nonsense!\n")
    assert done.exit_code == 1
    assert done.stderr.startswith("segctl-agent: the join token is malformed")


def test_a_token_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    done = CliRunner().invoke(main, ["enrol", "--token-file", str(tmp_path / "token"), "--state", str(tmp_path / "s")])
    assert done.exit_code == 1
    assert "cannot read the join token" in done.stderr


def test_wrong_usage_is_exit_code_2(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["enrol"]).exit_code == 2
    assert CliRunner().invoke(main, ["dance"]).exit_code == 2


def test_release_without_a_state_folder(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["release", "--state", str(tmp_path / "missing")])
    assert done.exit_code == 1
    assert "there is no state folder" in done.stderr


def test_a_name_service_cannot_fill_the_table() -> None:
    many = [f"192.0.2.{n}" for n in range(256)]
    assert len(endpoints(resolve_endpoints(("ctl.example:7443",), {}, lambda _: many))) == MAX_ADDRESSES


def test_a_look_at_the_lock_does_not_keep_an_agent_out(tmp_path: Path) -> None:
    """`status` looks whether an agent runs. `load` must not take that for one, and leave the host open."""
    folder = StateFolder(tmp_path)
    glance = folder.lock()
    assert glance is not None
    threading.Timer(0.05, os.close, (glance,)).start()
    lock = folder.lock(patience=5.0)
    assert lock is not None
    os.close(lock)


@pytest.mark.parametrize("command", ["run", "load"])
def test_the_mask_of_the_command_line_is_that_of_the_layout(command: str) -> None:
    """The command line names it without importing the renderer."""
    (option,) = (one for one in main.commands[command].params if one.name == "mark_mask")
    assert int(str(option.default), 0) == DEFAULT_MASK
