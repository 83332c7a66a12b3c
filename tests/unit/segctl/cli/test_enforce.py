"""`segctl enforce`: what is ready, and the change of the files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from segctl.cli.exits import CliError, Exit
from segctl.cli.rewriting import replace_files
from segctl.policy.source import SourceFile
from segctl.proto.v1 import admin_pb2 as pb

from tests.unit.segctl.cli.admin_server import FLOW, GENERATIONS, READY, T0, ScriptedAdmin
from tests.unit.segctl.cli.conftest import Cli

POLICY = """\
version: 1
tags: {env: [dev, prod], app: [shop]}
modes:
  # since May
  - {select: {env: prod}, mode: test}  # soon more
"""
SEEN = pb.SeenFlow(host="web1", workload="host", tags={"env": "prod"}, remote=b"\x0a\0\0\x01", service=FLOW.service)
NOT_READY = pb.Readiness(
    select=READY.select,
    phase="test",
    next="enforce",
    since_us=T0,
    hosts=2,
    days=0.5,
    flows=1000,
    covered=900,
    bounded=60,
    unexplained=40,
    unexplained_kinds=12,
    coming=3,
    top=[SEEN],
    periodic=[pb.PeriodicFlow(flow=SEEN, every_days=7, expected_us=T0)],
    periodic_kinds=1,
    tests=3,
    broken_tests=[pb.Finding(severity="error", code="test-failed", message="test: web -> db must be allowed")],
    obstacles=[
        pb.Obstacle(code="tests", message="1 of the policy's tests fail", hint="segctl check names them"),
        pb.Obstacle(code="young", message="observed for 0.5 of 7 days", hint="wait, or ask for fewer: --days"),
        pb.Obstacle(code="coming", message="3 unexplained flows came in the last day", hint="write rules"),
    ],
)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "shop.yaml").write_text(POLICY)
    (folder / "other.yaml").write_text("version: 1\nrules: []\n")
    return folder / "shop.yaml"


def in_phase(controller: ScriptedAdmin, phase: str, next_: str, ready: bool = True) -> None:
    controller.readiness = pb.ReadinessReply(
        selectors=[pb.Readiness(select=READY.select, phase=phase, next=next_, ready=ready)]
    )


def test_the_list_has_the_ready_ones_first(cli: Cli, controller: ScriptedAdmin) -> None:
    other = pb.Readiness(select=pb.Selection(workload="shop-db", tags={"env": "dev"}), phase="observe", next="test")
    other.obstacles.add(code="silent", message="no flow was seen in this phase", hint="wait")
    controller.readiness = pb.ReadinessReply(selectors=[NOT_READY, other, READY], more=True, lost=5)
    ran = cli("enforce", "--ready", "--since", "3d", "--days", "2")
    assert [text.split()[:2] for text in ran.out.splitlines()[:4]] == [
        ["SELECTOR", "PHASE"],
        ["env=prod", "test"],
        ["workload=shop-db,env=dev", "observe"],
        ["env=prod", "test"],
    ]
    assert ran.out.splitlines()[1].endswith("ready to enforce")
    assert ran.out.endswith(
        "What keeps the others\n"
        "  workload=shop-db,env=dev\n    no flow was seen in this phase\n"
        "  env=prod\n    1 of the policy's tests fail\n    observed for 0.5 of 7 days\n"
        "    3 unexplained flows came in the last day\n"
    )
    assert "96%" in ran.out
    assert ("there are too many" in ran.err, "5 flows were counted" in ran.err) == (True, True)
    asked = controller.asked[-1]
    assert (len(asked.selectors), asked.least_days, asked.since_us > 0) == (0, 2, True)
    assert [one["ready"] for one in cli("enforce", "--ready", "--json").json["selectors"]] == [False, False, True]
    controller.readiness = pb.ReadinessReply()
    assert "segctl enforce env=prod shows a selector" in cli("enforce", "--ready").err


def test_the_change_is_a_patch_that_git_takes(cli: Cli, controller: ScriptedAdmin, files: Path) -> None:
    ran = cli("enforce", "env=prod", "policy")
    assert dict(controller.asked[-1].selectors[0].tags) == {"env": "prod"}
    assert ran.code == Exit.OK
    assert files.read_text() == POLICY
    assert ("env=prod  test → enforce  ready" in ran.err, "--write applies it" in ran.err) == (True, True)
    done = subprocess.run(["git", "apply", "-"], input=ran.out, text=True, cwd=files.parents[1], check=False)
    assert done.returncode == 0
    assert files.read_text() == POLICY.replace("mode: test", "mode: enforce")


def test_a_change_is_written_to_the_file_alone(cli: Cli, files: Path) -> None:
    files.chmod(0o640)
    linked = files.with_name("z.yaml")
    files.rename(files.parent / "real.txt")
    linked.symlink_to("real.txt")
    ran = cli("enforce", "env=prod", "policy", "--write")
    assert (ran.code, linked.read_text()) == (Exit.OK, POLICY.replace("mode: test", "mode: enforce"))
    assert (linked.is_symlink(), linked.stat().st_mode & 0o777) == (True, 0o640)
    assert sorted(path.name for path in files.parent.iterdir()) == ["other.yaml", "real.txt", "z.yaml"]
    assert "Wrote policy/z.yaml" in ran.err
    assert "segctl push policy -m 'env=prod: test -> enforce'" in ran.err
    again = cli("enforce", "env=prod", "policy", "--write")
    assert (again.code, again.out) == (Exit.OK, "")
    assert "The files say enforce already" in again.err


def test_what_is_not_ready_stays(cli: Cli, controller: ScriptedAdmin, files: Path) -> None:
    controller.readiness = pb.ReadinessReply(selectors=[NOT_READY])
    ran = cli("enforce", "env=prod", "policy", "--write")
    assert (ran.code, ran.out, files.read_text()) == (Exit.FINDINGS, "", POLICY)
    for words in (
        "not ready to enforce: 3 obstacles",
        "observed for 0.5 of 7 days",
        "test: web -> db must be allowed",
        "96% of 1,000 flows, 60 are denied by boundaries",
        "40 flows of 12 kinds, 3 in the last day",
        "every 7 days",
        "no rule",
        "--anyway REASON",
    ):
        assert words in ran.err, words
    told = cli("enforce", "env=prod", "policy", "--json")
    assert (told.code, told.json["diff"], told.json["readiness"]["ready"]) == (Exit.FINDINGS, "", False)
    anyway = cli("enforce", "env=prod", "policy", "--write", "--anyway", "it's an attack")
    assert (anyway.code, "mode: enforce" in files.read_text()) == (Exit.OK, True)
    assert "-m 'env=prod: test -> enforce, anyway: it'\\''s an attack'" in anyway.err


def test_going_to_test_drops_nothing_and_is_not_refused(cli: Cli, controller: ScriptedAdmin, files: Path) -> None:
    in_phase(controller, "observe", "test", ready=False)
    files.write_text(POLICY.replace("mode: test", "mode: observe"))
    assert cli("enforce", "env=prod", "policy", "--write").code == Exit.OK
    assert files.read_text() == POLICY


def test_going_back_is_one_command(cli: Cli, controller: ScriptedAdmin, files: Path) -> None:
    in_phase(controller, "enforce", "")
    files.write_text(POLICY.replace("mode: test", "mode: enforce"))
    ran = cli("enforce", "env=prod", "policy", "--back", "--write")
    assert (ran.code, files.read_text()) == (Exit.OK, POLICY)
    assert cli("enforce", "env=prod", "policy").code == Exit.FINDINGS
    in_phase(controller, "observe", "test")
    assert "there is no phase before it" in cli("enforce", "env=prod", "policy", "--back").err


def test_files_that_say_something_else_are_left_alone(cli: Cli, controller: ScriptedAdmin, files: Path) -> None:
    for text, words in (
        (POLICY.replace("mode: test", "mode: observe"), "the files say observe for it, and in force is test"),
        (POLICY.replace("app: [shop]", "app: ["), "the policy files have errors"),
    ):
        files.write_text(text)
        ran = cli("enforce", "env=prod", "policy", "--write")
        assert (ran.code, words in ran.err, files.read_text()) == (Exit.FINDINGS, True, text)
    in_phase(controller, "enforce", "")
    files.write_text(POLICY.replace("mode: test", "mode: enforce"))
    ran = cli("enforce", "app=shop,env=prod", "policy", "--write", "--back")
    assert (ran.code, "has env=prod in enforce; move that entry" in ran.err) == (Exit.FINDINGS, True)


def test_without_files_it_speaks_of_those_in_force(
    cli: Cli, controller: ScriptedAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = pb.Generation(number=8, active=True)
    stored.source.files.add(name="policy/shop.yaml", content=POLICY.encode())
    monkeypatch.setitem(GENERATIONS, 8, stored)
    ran = cli("enforce", "env=prod")
    assert ran.out.startswith("--- a/policy/shop.yaml\n+++ b/policy/shop.yaml\n@@ ")
    assert cli("enforce", "env=prod", "--json").json["after"] == "enforce"
    monkeypatch.setitem(GENERATIONS, 8, pb.Generation(number=8))
    assert "no policy is in force yet" in cli("enforce", "env=prod").err


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--ready", "env=prod"),
        ("--ready", "--back"),
        ("env=prod", "--write"),
        ("env=prod", "-", "--write"),
        ("env=prod", "--anyway", ""),
        ("env=prod", "--anyway", "x" * 301),
        ("env=prod", "--anyway", "why", "--back"),
        ("env",),
        ("peer=office",),
        ("env=prod,env=dev",),
    ],
)
def test_words_that_make_no_sense(cli: Cli, words: tuple[str, ...]) -> None:
    assert cli("enforce", *words).code == Exit.USAGE


def test_a_file_that_changed_meanwhile_is_not_written(files: Path) -> None:
    read = SourceFile(str(files), POLICY.encode())
    files.write_text("else")
    with pytest.raises(CliError, match="changed since it was read"):
        replace_files([read], {str(files): b"new"})
    assert files.read_text() == "else"


def test_a_file_stays_its_owners(cli: Cli, files: Path) -> None:
    """Also where root writes it."""
    owner = (12_345, 12_346) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(files, *owner)
    assert cli("enforce", "env=prod", "policy", "--write").code == Exit.OK
    assert "mode: enforce" in files.read_text()
    assert (files.stat().st_uid, files.stat().st_gid) == owner


def test_a_file_without_a_last_line_end_is_a_good_patch(cli: Cli, files: Path) -> None:
    files.write_text(POLICY.rstrip())
    done = subprocess.run(
        ["git", "apply", "-"],
        input=cli("enforce", "env=prod", "policy").out,
        text=True,
        cwd=files.parents[1],
        check=False,
    )
    assert (done.returncode, files.read_text()) == (0, POLICY.rstrip().replace("mode: test", "mode: enforce"))
