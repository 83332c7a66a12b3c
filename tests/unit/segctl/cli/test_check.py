"""`segctl check` with the real parser and checks, offline and with the fleet."""

from __future__ import annotations

from pathlib import Path

from segctl.cli.exits import Exit
from segctl.proto.v1 import admin_pb2 as pb

from tests.unit.segctl.cli.admin_server import ScriptedAdmin
from tests.unit.segctl.cli.conftest import Cli

GOOD = """\
version: 1
tags:
  role: [web, db]
services:
  postgres: [tcp/5432]
essentials:
  dns: [10.0.0.53]
  rescue: {from: [10.0.0.9]}
modes:
  - {select: {role: web}, mode: enforce}
rules:
  - {name: web-to-db, from: {role: web}, to: {role: db}, allow: [postgres], owner: shop, why: orders}
tests:
  - {from: {role: web}, to: {role: db}, allow: [postgres]}
"""


def _policy(directory: Path, text: str) -> str:
    path = directory / "shop.yaml"
    path.write_text(text)
    return str(path)


def test_a_good_policy(offline: Cli, tmp_path: Path) -> None:
    ran = offline("check", _policy(tmp_path, GOOD), "--json")
    assert ran.code == Exit.OK, ran.out
    assert ran.json["ok"] is True
    assert ran.json["hosts"] is None
    assert ran.json["files"] == 1


def test_every_error_is_reported_with_its_place(offline: Cli, tmp_path: Path) -> None:
    path = _policy(tmp_path, GOOD.replace("{role: db}, allow: [postgres], owner", "{role: bd}, allow: [pg], owner"))
    ran = offline("check", path)
    assert ran.code == Exit.FINDINGS
    errors = [text for text in ran.out.splitlines() if ": error: " in text]
    assert len(errors) >= 2
    assert all(text.startswith(f"{path}:12:") for text in errors)


def test_on_a_terminal_the_place_is_shown_with_a_caret(offline: Cli, tmp_path: Path) -> None:
    ran = offline.on_terminal()("check", _policy(tmp_path, GOOD.replace("role: web}, mode", "role: wbe}, mode")))
    lines = ran.out.splitlines()
    at = next(i for i, text in enumerate(lines) if text.strip().endswith("^"))
    column = lines[at].index("^")
    assert lines[at - 1][column:].startswith(("wbe", "role"))


def test_a_broken_test_of_the_policy_is_an_error(offline: Cli, tmp_path: Path) -> None:
    text = GOOD.replace(
        "tests:\n  - {from: {role: web}, to: {role: db}, allow", "tests:\n  - {from: {role: web}, to: {role: db}, deny"
    )
    ran = offline("check", _policy(tmp_path, text), "--json")
    assert ran.code == Exit.FINDINGS
    assert any(f["line"] == 14 for f in ran.json["findings"] if f["severity"] == "error")


def test_stdin_and_rubbish(offline: Cli) -> None:
    assert offline("check", "-", stdin=GOOD.encode()).code == Exit.OK
    assert offline("check", "-", stdin=b"\xff\xfe\x00").code == Exit.FINDINGS
    assert offline("check", "-", stdin=b"").code == Exit.FINDINGS


def test_with_the_fleet_the_controller_decides(cli: Cli, controller: ScriptedAdmin, tmp_path: Path) -> None:
    ran = cli("check", "--fleet", _policy(tmp_path, GOOD))
    assert ran.code == Exit.OK
    assert "5 enrolled hosts" in ran.out
    assert isinstance(controller.asked[-1], pb.PolicySource)


def test_strict_counts_warnings(offline: Cli, tmp_path: Path) -> None:
    text = GOOD.replace("why: orders}", "why: orders, expires: 2020-01-01}").split("tests:")[0]
    path = _policy(tmp_path, text)
    ran = offline("check", path, "--json")
    assert ran.json["warnings"] >= 1, ran.out
    assert ran.code == Exit.OK
    assert offline("check", "--strict", path).code == Exit.FINDINGS


def test_no_path_is_a_usage_error(offline: Cli) -> None:
    assert offline("check").code == Exit.USAGE
