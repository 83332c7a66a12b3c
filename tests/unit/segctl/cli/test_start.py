"""What starts without grpc, how fast, and the program as a process."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from segctl.cli.commands.setup import find_controller
from segctl.cli.exits import CliError, Exit
from segctl.cli.terminal import Terminal

from tests.unit.segctl.cli.admin_server import ScriptedAdmin
from tests.unit.segctl.cli.conftest import Cli

SEGCTL = [sys.executable, "-m", "segctl.cli"]
GOAL = 0.150
"""Seconds of the process's own CPU time: the wall belongs to whoever else uses the machine."""
SLACK = 2.0


def _run(*arguments: str, env: dict[str, str] | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SEGCTL, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **(env or {})},
    )


@pytest.mark.parametrize("arguments", [("--help",), ("push", "--help"), ("check", "-"), ("completion", "bash")])
def test_neither_grpc_nor_protobuf_is_imported_before_it_is_needed(arguments: tuple[str, ...]) -> None:
    code = (
        "import sys; from segctl.cli.main import run; from segctl.cli.app import App\n"
        f"run({list(arguments)!r}, App())\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('grpc', 'google', 'ssl')], file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], input="version: 1\n", capture_output=True, text=True, timeout=30)
    assert ran.stderr.strip().endswith("[]")


@pytest.mark.parametrize("arguments", [("--help",), ("check", "-")])
def test_it_starts_fast(arguments: tuple[str, ...]) -> None:
    best = min(_cpu_seconds(arguments) for _ in range(3))
    assert best < GOAL * SLACK, f"{best * 1000:.0f} ms"


def _cpu_seconds(arguments: tuple[str, ...]) -> float:
    before = os.times()
    began = time.monotonic()
    _run(*arguments, stdin="version: 1\n")
    after = os.times()
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    return min(spent, time.monotonic() - began)


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    ran = subprocess.run(
        f"{' '.join(SEGCTL)} completion bash | true; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "Traceback" not in ran.stderr
    assert int(ran.stdout) in {Exit.OK, Exit.BROKEN_PIPE}


def test_a_terminal_without_unicode_gets_question_marks_and_no_traceback() -> None:
    ran = _run("whoami", "--config", "/nonexistent", env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert ran.returncode == Exit.USAGE
    assert "Traceback" not in ran.stderr
    assert "no client configuration" in ran.stderr


def test_the_version_is_told() -> None:
    assert _run("--version").stdout.startswith("segctl 0.")


@pytest.mark.parametrize(("environment", "colour"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colour_only_on_a_terminal_and_not_against_wishes(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], colour: bool
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert Terminal.of_process(environment).colour is colour
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    assert not Terminal.of_process(environment).colour
    assert Terminal.of_process(environment).width == 0


def _fake_controller(directory: Path, code: int = 0) -> Path:
    program = directory / "segctl-controller"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@"\nexit {code}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_init_runs_the_controller_with_its_defaults(tmp_path: Path) -> None:
    _fake_controller(tmp_path)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "USER": "alice", "SUDO_USER": "", "HOME": "/home/alice"}
    env |= {"SEGCTL_CONFIG": "", "SEGCTL_CONTROLLER_STATE": ""}
    ran = _run("init", "--name", "c.example", "--name", "10.0.0.5", "--port", "1234", env=env)
    assert ran.returncode == Exit.OK, ran.stderr
    words = "init --state /var/lib/segctl-controller --listen 0.0.0.0 --name c.example --name 10.0.0.5 --port 1234 "
    words += "--enrol-port 7444 --admin alice --admin-out /home/alice/.config/segctl"
    assert ran.stdout.split("Next:")[0].split() == words.split()
    assert "segctl token create" in ran.stdout


@pytest.mark.parametrize(("code", "exit_code"), [(2, Exit.USAGE), (7, Exit.FINDINGS)])
def test_init_fails_as_the_controller_does(tmp_path: Path, code: int, exit_code: Exit) -> None:
    _fake_controller(tmp_path, code)
    assert _run("init", env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}).returncode == exit_code


def test_init_without_the_controller_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(CliError, match="is not installed here") as caught:
        find_controller(str(tmp_path))
    assert "segctl[controller]" in caught.value.mend


def test_ctrl_c_ends_following_without_a_failure(cli: Cli, controller: ScriptedAdmin) -> None:
    command = [sys.executable, "-u", "-m", "segctl.cli", "denied", "--follow", "--config", str(cli.app.directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert "HOST/WORKLOAD" in process.stdout.readline()
        assert "web1/host" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, err) == (Exit.OK, "")
