"""`segctl host prepare`, and what it writes where."""

from __future__ import annotations

from pathlib import Path

import pytest
from segctl.cli.drop_ins import write_drop_ins
from segctl.cli.exits import CliError, Exit
from segctl.policy.prepare import HEADER, DropIn
from segctl.proto.v1 import admin_pb2 as pb

from tests.unit.segctl.cli.admin_server import GENERATIONS, ScriptedAdmin
from tests.unit.segctl.cli.conftest import Cli

POLICY = b"""
version: 1
tags: {role: [db, web]}
workloads:
  shop-db: {on: {role: db}, process: {unit: "postgresql@*.service"}}
  web: {on: {role: web}, process: {unit: nginx.service}}
  bob: {on: {role: web}, process: {user: bob}}
"""
CONTENT = f"{HEADER}\n[Service]\nSlice=seg-a.slice\n"
A = DropIn("a.service.d/50-segctl.conf", CONTENT, "a", "a.service")
B = DropIn("b.service.d/50-segctl.conf", CONTENT, "a", "b.service")


def tree(directory: Path) -> dict[str, str]:
    return {str(p.relative_to(directory)): p.read_text() for p in directory.rglob("*") if p.is_file()}


def test_prints_the_drop_ins_and_what_to_restart(offline: Cli) -> None:
    ran = offline("host", "prepare", "-", stdin=POLICY)
    assert ran.code == Exit.OK
    assert "# postgresql@.service.d/50-segctl.conf\n" in ran.out
    assert "[Service]\nSlice=seg-shop\\x2ddb.slice\n" in ran.out
    assert "bob (user:bob)" in ran.out
    assert "systemctl try-restart" in ran.out


def test_as_json(offline: Cli) -> None:
    document = offline("host", "prepare", "-", "--json", stdin=POLICY).json
    assert [f["unit"] for f in document["files"]][-1] == "slices.target"
    assert [u["workload"] for u in document["unprepared"]] == ["bob"]
    assert document["commands"][0] == "systemctl daemon-reload"


def test_writes_once_and_removes_what_is_no_longer_wanted(offline: Cli, tmp_path: Path) -> None:
    where = tmp_path / "system"
    where.mkdir()
    first = offline("host", "prepare", "-", "--write", str(where), "--json", stdin=POLICY).json
    assert set(first["changed"]) == set(tree(where))
    again = offline("host", "prepare", "-", "--write", str(where), "--json", stdin=POLICY).json
    assert (again["changed"], again["removed"]) == ([], [])
    less = POLICY.replace(b"nginx.service", b"caddy.service")
    changed = offline("host", "prepare", "-", "--write", str(where), "--json", stdin=less).json
    assert changed["removed"] == ["nginx.service.d/50-segctl.conf", "nginx.socket.d/50-segctl.conf"]
    assert not (where / "nginx.service.d").exists()


def test_of_one_host_only_its_own_workloads(cli: Cli) -> None:
    """web1 has the role web."""
    document = cli("host", "prepare", "-", "--host", "web1", "--json", stdin=POLICY).json
    assert {f["workload"] for f in document["files"]} == {"web", ""}
    assert cli("host", "prepare", "-", "--host", "web9", stdin=POLICY).code == Exit.FINDINGS


def test_without_files_the_policy_in_force(
    cli: Cli, controller: ScriptedAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = pb.Generation(number=8, active=True)
    active.source.files.add(name="workloads.yaml", content=POLICY)
    monkeypatch.setitem(GENERATIONS, 8, active)
    controller.status = pb.StatusReply(active=active)
    assert "seg-shop\\x2ddb.slice" in cli("host", "prepare").out
    controller.status = pb.StatusReply()
    ran = cli("host", "prepare")
    assert ran.code == Exit.FINDINGS
    assert "no policy is in force" in ran.err


def test_a_policy_with_errors_writes_nothing(offline: Cli, tmp_path: Path) -> None:
    ran = offline("host", "prepare", "-", "--write", str(tmp_path), stdin=POLICY.replace(b"role: web", b"role: x"))
    assert ran.code == Exit.FINDINGS
    assert "segctl check" in ran.err
    assert not tree(tmp_path)


def test_print_and_write_exclude_each_other(offline: Cli, tmp_path: Path) -> None:
    assert offline("host", "prepare", "-", "--print", "--write", str(tmp_path), stdin=POLICY).code == Exit.USAGE


def test_files_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "old.service.d").mkdir()
    (tmp_path / "old.service.d" / "50-segctl.conf").write_text(CONTENT)
    (tmp_path / "old.service.d" / "10-theirs.conf").write_text("[Service]\n")
    (tmp_path / "theirs.service.d").mkdir()
    (tmp_path / "theirs.service.d" / "50-segctl.conf").write_text("[Service]\nSlice=x.slice\n")
    written = write_drop_ins([A], tmp_path)
    assert written.removed == ("old.service.d/50-segctl.conf",)
    assert tree(tmp_path) == {
        A.path: CONTENT,
        "old.service.d/10-theirs.conf": "[Service]\n",
        "theirs.service.d/50-segctl.conf": "[Service]\nSlice=x.slice\n",
    }


def test_a_file_that_somebody_else_wrote_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.service.d").mkdir()
    (tmp_path / A.path).write_text("[Service]\n")
    with pytest.raises(CliError, match="somebody else"):
        write_drop_ins([A], tmp_path)
    assert tree(tmp_path) == {A.path: "[Service]\n"}


@pytest.mark.parametrize("link", ["a.service.d", A.path])
def test_no_link_leads_out_of_the_directory(tmp_path: Path, link: str) -> None:
    units, outside = tmp_path / "units", tmp_path / "outside"
    (units / "a.service.d").mkdir(parents=True)
    outside.mkdir()
    target = outside / "50-segctl.conf"
    target.write_text(CONTENT + "# theirs\n")
    if link == "a.service.d":
        (units / "a.service.d").rmdir()
    (units / link).symlink_to(outside if link == "a.service.d" else target)
    with pytest.raises(CliError, match="links"):
        write_drop_ins([A], units)
    assert target.read_text() == CONTENT + "# theirs\n"
    with pytest.raises(CliError, match="links"):
        write_drop_ins([A, B], units)
    write_drop_ins([B], units)
    assert target.exists()


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    (tmp_path / "a.service.d" / "50-segctl.conf").mkdir(parents=True)
    with pytest.raises(CliError):
        write_drop_ins([A], tmp_path)
    assert [p.name for p in (tmp_path / "a.service.d").iterdir()] == ["50-segctl.conf"]


def test_a_directory_that_is_not_there(offline: Cli, tmp_path: Path) -> None:
    ran = offline("host", "prepare", "-", "--write", str(tmp_path / "none"), stdin=POLICY)
    assert ran.code == Exit.USAGE
    assert "/etc/systemd/system" in ran.err
