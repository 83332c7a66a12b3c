"""segctl suggest and segctl review: what they print, record and refuse."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from segctl.cli.exits import Exit
from segctl.proto.v1 import admin_pb2 as pb

from tests.unit.segctl.cli.admin_server import T0, ScriptedAdmin
from tests.unit.segctl.cli.conftest import Cli

POLICY = """\
version: 1
tags: {role: [web, db]}
services: {pg: [tcp/5432]}
workloads:
  db: {on: {role: db}, process: {unit: "postgresql@*.service"}}
modes: [{select: {}, mode: test}]
boundaries: [{name: b, from: {workload: db}, to: {role: web}}]
essentials: {rescue: none}
"""
NEW = """\
version: 1
workloads:
  nginx:
    on: {role: web}
    process: {unit: nginx.service}
rules:
# 0123456789ab: confidence high; steady, 30 flows from 2 of 2 hosts
- name: nginx-to-db
  from: {workload: nginx}
  to: {workload: db}
  allow: [pg]
  owner: team
  why: seen
"""
WHOLE = NEW.replace(
    "version: 1\n",
    "version: 1\ntags: {role: [db, web]}\nservices: {pg: [tcp/5432]}\n",
).replace("workloads:\n", 'workloads:\n  db: {on: {role: db}, process: {unit: "postgresql@*.service"}}\n')
SEEN = pb.ObservedFlows(
    source="nginx.service on role=web",
    destination="postgresql@*.service on role=db",
    service="tcp/5432",
    flows=30,
    sightings=10,
    hosts=2,
    first_seen_us=T0,
    last_seen_us=T0 + 10**6,
)
ONE = pb.RuleSuggestion(
    id="0123456789ab",
    name="nginx-to-db",
    source="nginx",
    destination="db",
    services=["pg"],
    within=["env"],
    confidence="high",
    rhythm="steady",
    flows=30,
    sightings=10,
    hosts=2,
    of_hosts=2,
    first_seen_us=T0,
    last_seen_us=T0 + 10**6,
    excess=pb.SuggestionExcess(permitted=4, seen=1, unseen=2, silent=1, examples=["role=web -> role=db tcp/5432"]),
    explains=[SEEN],
    explained=1,
    remarks=["runs weekly"],
    policy=NEW,
    whole=WHOLE,
)
REPLY = pb.SuggestReply(
    since_us=T0 - 10**12,
    until_us=T0,
    suggestions=[ONE],
    left_out=[pb.LeftOutFlows(reason="scan", why="nmap: 18 services tried", flows=54, observations=[SEEN] * 7)],
    permitted_flows=1000,
    policy=NEW,
)
DECISION = pb.SuggestionDecision(
    id="0123456789ab", verdict="rejected", actor="bob", at_us=T0, reason="no longer", rule="nginx-to-db"
)


@pytest.fixture
def reviewing(cli: Cli, controller: ScriptedAdmin, tmp_path: Path) -> Cli:
    controller.suggestions, controller.decided = REPLY, [DECISION]
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "policy.yaml").write_text(POLICY)
    return cli


def asked(controller: ScriptedAdmin) -> list[pb.DecideSuggestionRequest]:
    return [request for request in controller.asked if isinstance(request, pb.DecideSuggestionRequest)]


def test_suggest_prints_a_file_to_paste_and_tells_the_rest_aside(reviewing: Cli) -> None:
    ran = reviewing("suggest")
    assert (ran.code, ran.out) == (Exit.OK, NEW)
    assert "1 rule suggested" in ran.err and "1,000 flows are permitted already, 54 left out" in ran.err
    document = reviewing("suggest", "--json").json
    assert document["suggestions"][0]["excess"]["silent"] == 1
    assert document["unit"] == "day" and document["policy"] == NEW


def test_what_was_left_out_is_shown_with_its_reason(reviewing: Cli) -> None:
    ran = reviewing("suggest", "--left-out")
    assert "scan: 54 flows. nmap: 18 services tried" in ran.out
    assert ran.out.count("nginx.service on role=web") == 5 and "and more" in ran.out


def test_review_lists_and_shows(reviewing: Cli) -> None:
    listed = reviewing("review").out
    assert "0123456789ab" in listed and "3 of 4" in listed and "2 of 2" in listed
    shown = reviewing("review", "show", "nginx-to-db").out
    for words in ("within env", "never seen: 2 though both ends were, 1 with an end that told nothing", "runs weekly"):
        assert words in shown
    assert NEW in shown
    decided = reviewing("review", "--decided").out
    assert "rejected" in decided and "no longer" in decided


def test_accept_prints_a_diff_that_git_applies(reviewing: Cli, controller: ScriptedAdmin, tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    ran = reviewing("review", "accept", "0123456789ab", str(policy), "--into", "policy")
    assert ran.code == Exit.OK, ran.err
    [request] = asked(controller)
    assert (request.verdict, request.suggested, request.decided) == ("accepted", WHOLE, NEW)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "apply"], input=ran.out.encode(), cwd=tmp_path, check=True)
    assert (policy / "suggested-nginx-to-db.yaml").read_text().startswith("# 0123456789ab: confidence high")
    checked = reviewing("check", str(policy))
    assert checked.code == Exit.OK, checked.out
    again = reviewing("review", "accept", "0123456789ab", str(policy))
    assert again.code == Exit.FINDINGS and "a rule of that name is in these files" in again.err
    assert len(asked(controller)) == 1


def test_what_the_files_declare_already_is_left_out_of_the_diff(reviewing: Cli, tmp_path: Path) -> None:
    more = tmp_path / "policy" / "nginx.yaml"
    more.write_text("version: 1\nworkloads: {nginx: {on: {role: web}, process: {unit: nginx.service}}}\n")
    ran = reviewing("review", "accept", "0123456789ab", str(tmp_path / "policy"))
    assert ran.code == Exit.OK, ran.err
    assert "unit: nginx.service" not in ran.out
    more.write_text(more.read_text().replace("nginx.service", "other.service"))
    ran = reviewing("review", "accept", "0123456789ab", str(tmp_path / "policy"))
    assert ran.code == Exit.FINDINGS and "workload nginx is declared in these files" in ran.err


def test_edit_takes_a_file_where_nobody_can_type(reviewing: Cli, controller: ScriptedAdmin, tmp_path: Path) -> None:
    assert reviewing("review", "edit", "0123456789ab").code == Exit.USAGE
    edited = tmp_path / "edited.yaml"
    edited.write_text(NEW.replace("allow: [pg]", "allow: [tcp/5433]"))
    ran = reviewing("review", "edit", "0123456789ab", "--file", str(edited), str(tmp_path / "policy"), "--reason", "x")
    assert ran.code == Exit.OK, ran.err
    assert "+  allow: [tcp/5433]" in ran.out
    [request] = asked(controller)
    assert (request.verdict, request.reason, request.decided) == ("edited", "x", edited.read_text())
    edited.write_text(NEW)
    assert reviewing("review", "edit", "0123456789ab", "--file", str(edited)).code == Exit.FINDINGS
    edited.write_text(NEW.replace("allow: [pg]", "allow: [nothing]"))
    ran = reviewing("review", "edit", "0123456789ab", "--file", str(edited), str(tmp_path / "policy"))
    assert ran.code == Exit.FINDINGS and "nothing" in ran.err
    assert len(asked(controller)) == 1


def test_reject_needs_a_reason_and_forget_takes_it_back(reviewing: Cli, controller: ScriptedAdmin) -> None:
    assert reviewing("review", "reject", "0123456789ab").code == Exit.USAGE
    assert json.loads(reviewing("review", "reject", "0123456789ab", "--reason", "old", "--json").out)["diff"] == ""
    assert reviewing("review", "forget", "0123456789ab").code == Exit.OK
    assert [(one.verdict, one.reason) for one in asked(controller)] == [("rejected", "old"), ("forgotten", "")]
    missing = reviewing("review", "reject", "ffff", "--reason", "old")
    assert missing.code == Exit.FINDINGS and "no suggestion 'ffff' now" in missing.err
