"""The command line against a real controller in this process, with hosts that prove, refuse and report."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from segctl.cli.exits import Exit
from segctl.proto.v1 import agent_pb2, hostpolicy_pb2
from segctl_controller.store.records import Role

from tests.controller_harness import ControllerLab, running_controller
from tests.unit.segctl.cli.conftest import Cli, Ran

POLICY = """\
version: 1
tags:
  role: [web, db]
services:
  postgres: [tcp/5432]
workloads:
  shop-web: {on: {role: web}, process: {unit: nginx.service}}
essentials:
  dns: [10.9.0.53]
  rescue: {from: [10.9.0.9]}
modes:
  - {select: {role: db}, mode: enforce}
rules:
  - {name: web-to-db, from: {workload: shop-web}, to: {role: db}, allow: [postgres], owner: shop, why: orders}
tests:
  - {from: {workload: shop-web}, to: {role: db}, allow: [postgres]}
"""


async def _call(cli: Cli, lab: ControllerLab, *arguments: str, as_: str = "root") -> Ran:
    return await asyncio.to_thread(cli.with_config(lab.operators / as_), *arguments)


@pytest.fixture
def policy_file(tmp_path: Path) -> str:
    return write(tmp_path / "shop.yaml", POLICY)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


async def test_from_the_token_to_the_proof(offline: Cli, tmp_path: Path, policy_file: str) -> None:
    async with running_controller(tmp_path / "lab") as lab:
        assert (await _call(offline, lab, "whoami", "--json")).json["role"] == "admin"
        created = await _call(offline, lab, "token", "create", "--tag", "role=web")
        assert created.code == Exit.OK, created.err
        agent = await lab.enrol_with(created.out.strip(), "web1")
        async with agent.session(addresses=["10.9.0.1"]) as session:
            await session.receive()
            pushing = asyncio.create_task(_call(offline, lab, "push", policy_file, "--yes", "--json", "-m", "first"))
            policy = await session.acknowledge(confirmed=True)
            pushed = await pushing
            assert pushed.code == Exit.OK, pushed.err
            told = [x.get("state") or x.get("name") or x["kind"] for x in pushed.lines]
            assert told == ["plan", "trial", "staging", "staged", "activating", "proven", "confirming", "done"]
            assert pushed.lines[1]["number"] == policy.generation

            again = await _call(offline, lab, "push", policy_file)
            assert "nothing to push" in again.out
            status = await _call(offline, lab, "status", "--exit-code")
            assert status.code == Exit.OK, status.out
            assert "web1  in-sync" in status.out
            shown = await _call(offline, lab, "host", "show", "web1", "--json")
            assert shown.json["tags"] == {"role": "web"}
            explained = await _call(offline, lab, "explain", "web1/shop-web", "10.9.0.77", "postgres", "--no-live")
            assert explained.code == Exit.OK, explained.err
            tagged = await _call(offline, lab, "tag", "web1", "role=db")
            assert tagged.out == "web1: role=db\n", tagged.err
        history = await _call(offline, lab, "history", "--json")
        assert [(g["message"], g["active"]) for g in history.json] == [("first", True)]
        audit = await _call(offline, lab, "audit", "--json")
        assert "push" in {e["action"] for e in audit.json}


async def test_a_host_that_refuses_undoes_the_push(offline: Cli, tmp_path: Path, policy_file: str) -> None:
    async with running_controller(tmp_path / "lab") as lab:
        agent = await lab.enrol("web1", {"role": "web"})
        async with agent.session(addresses=["10.9.0.1"]) as session:
            await session.receive()
            pushing = asyncio.create_task(_call(offline, lab, "push", policy_file, "--yes"))
            await session.refuse(await session.policy(), "set w0_in4 is full")
            while (message := await session.receive()).WhichOneof("kind") != "take_back":
                pass
            back = message.take_back
            ended = agent_pb2.TrialEnded(generation=back.generation, digest=back.digest, reason=back.reason)
            await session.send(trial_ended=ended)
            pushed = await pushing
        assert pushed.code == Exit.FINDINGS, pushed.out + pushed.err
        assert "Undone. Generation 1 is not in force: web1 refused it: set w0_in4 is full" in pushed.out


async def test_denials_reach_the_terminal_while_following(
    offline: Cli, tmp_path: Path, policy_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_controller(tmp_path / "lab") as lab:
        agent = await lab.enrol("web1", {"role": "web"})
        denial = agent_pb2.Denial(
            verdict="denied",
            workload="host",
            remote=b"\x0a\x09\x00\x4d",
            service=hostpolicy_pb2.PortRange(protocol="tcp", low=5432, high=5432),
            process=agent_pb2.ProcessInfo(pid=7, exe="/usr/bin/nc", command="nc 10.9.0.77 5432", user="root"),
            count=2,
            first_seen_us=lab.controller.clock.now_us(),
            last_seen_us=lab.controller.clock.now_us(),
        )
        async with agent.session(addresses=["10.9.0.1"]) as session:
            await session.receive()
            async with agent.reports() as reports:
                await reports.write(agent_pb2.ReportBatch(epoch="e", sequence=1, denials=[denial], lost=4))
                ack = await reports.read()
                assert ack.sequence == 1
        listed = await _call(offline, lab, "denied", "--wide")
        assert "web1/host (nc 7 root)" in listed.out, listed.err
        assert "10.9.0.77" in listed.out
        assert "4 more were denied" in listed.out
        (record,) = [r for r in (await _call(offline, lab, "denied", "--json")).lines if r["kind"] == "denial"]
        assert (record["count"], record["process"]["pid"], record["direction"]) == (2, 7, "egress")


async def test_flows_hits_and_cuts_reach_the_terminal(offline: Cli, tmp_path: Path, policy_file: str) -> None:
    narrower = write(tmp_path / "narrower.yaml", POLICY.replace("[tcp/5432]", "[tcp/6432]"))
    async with running_controller(tmp_path / "lab") as lab:
        web = await lab.enrol("web1", {"role": "web"})
        weak = agent_pb2.WorkloadFact(name="shop-web", identified="unit", strength="best-effort", why="it forks early")
        facts = {"mark_mask": 0xFFFFFF80, "table_guard": "owned", "workloads": [weak]}
        async with web.session(addresses=["10.9.0.1"], **facts) as session:
            await session.receive()
            pushing = asyncio.create_task(_call(offline, lab, "push", policy_file, "--yes"))
            request, _ = await session.draft()
            await session.send(impact=agent_pb2.ImpactReply(id=request.id, live=3))
            await session.acknowledge()
            assert "No live connection would be cut on the hosts that are connected." in (await pushing).out

            now = lab.controller.clock.now_us()
            flows = agent_pb2.FlowBatch(
                from_us=now - 10**6,
                until_us=now,
                workloads=["shop-web"],
                rules=["web-to-db"],
                workload=[0],
                rule=[0],
                direction=[0],
                remotes=b"\0" * 10 + b"\xff\xff\x0a\x09\x00\x02",
                protocol=[6],
                port=[5432],
                flows=[4],
                bytes_sent=[100],
                bytes_received=[2000],
                first_ms=[0],
                last_ms=[900],
                verdict=[0],
            )
            hits = [agent_pb2.RuleHits(rule="web-to-db", count=9, last_hit_us=now)]
            async with web.reports() as reports:
                await reports.write(agent_pb2.ReportBatch(epoch="e", sequence=1, flows=flows, hits=hits))
                assert (await reports.read()).sequence == 1
            [flow] = (await _call(offline, lab, "flows", "--since", "30d", "--json")).json["flows"]
            assert (flow["peer_address"], flow["service_name"], flow["flows"]) == ("10.9.0.2", "postgres", 4)
            [use] = (await _call(offline, lab, "report", "rules", "--json")).json
            assert (use["rule"], use["hits"], use["in_policy"]) == ("web-to-db", 9, True)

            planning = asyncio.create_task(_call(offline, lab, "plan", narrower))
            request, _ = await session.draft()
            cut = agent_pb2.LiveConnection(
                workload="shop-web",
                remote=b"\x0a\x09\x00\x02",
                service=hostpolicy_pb2.PortRange(protocol="tcp", low=5432, high=5432),
                process=agent_pb2.ProcessInfo(pid=7, exe="/usr/sbin/nginx", user="www"),
                rule="web-to-db",
            )
            await session.send(impact=agent_pb2.ImpactReply(id=request.id, live=3, cut=1, connections=[cut]))
            planned = await planning
            assert "1 live connection would be cut on the hosts that are connected." in planned.out
            assert "web1 nginx 7 www shop-web → 10.9.0.2 tcp/5432 web-to-db     1" in planned.out
            shown = await _call(offline, lab, "host", "show", "web1")
            assert "owned: the kernel refuses changes by others" in shown.out
            assert "shop-web is told best-effort: it forks early" in shown.out
        unknown = await _call(offline, lab, "flows", "--host", "nobody")
        assert unknown.code == Exit.FINDINGS
        assert "no host 'nobody' is enrolled" in unknown.err


async def test_roles_and_removed_operators(offline: Cli, tmp_path: Path, policy_file: str) -> None:
    async with running_controller(tmp_path / "lab") as lab:
        await asyncio.to_thread(lab.operator, "vera", Role.VIEWER)
        assert (await _call(offline, lab, "plan", policy_file, as_="vera")).code == Exit.OK
        for command in (("push", policy_file, "--yes"), ("token", "create"), ("audit",), ("tag", "x", "role=web")):
            ran = await _call(offline, lab, *command, as_="vera")
            assert ran.code == Exit.NOT_PERMITTED, (command, ran.err)


async def test_a_policy_that_breaks_its_tests_is_refused(offline: Cli, tmp_path: Path) -> None:
    head, tests = POLICY.split("tests:")
    path = write(tmp_path / "shop.yaml", f"{head}tests:{tests.replace('allow', 'deny')}")
    async with running_controller(tmp_path / "lab") as lab:
        ran = await _call(offline, lab, "push", path, "--yes", "--json")
        assert ran.code == Exit.FINDINGS
        assert json.loads(ran.err)["error"]["message"].startswith("refused")
        assert (await _call(offline, lab, "history", "--json")).json == []


async def test_rollback_and_unknown_names(offline: Cli, tmp_path: Path, policy_file: str) -> None:
    weaker = write(tmp_path / "weaker.yaml", POLICY.replace("mode: enforce", "mode: test"))
    async with running_controller(tmp_path / "lab") as lab:
        assert (await _call(offline, lab, "rollback", "--yes")).code == Exit.FINDINGS
        assert (await _call(offline, lab, "push", policy_file, "--yes")).code == Exit.OK
        assert (await _call(offline, lab, "push", weaker, "--yes")).code == Exit.OK
        ran = await _call(offline, lab, "rollback", "--yes")
        assert ran.code == Exit.OK, ran.err
        history = (await _call(offline, lab, "history", "--json")).json
        assert [g["rollback_of"] for g in history] == [1, None, None]
        unknown = await _call(offline, lab, "explain", "nobody", "web1", "postgres")
        assert unknown.code == Exit.FINDINGS
        assert "nobody" in unknown.err
        assert (await _call(offline, lab, "token", "revoke", "absent")).code == Exit.FINDINGS
        assert (await _call(offline, lab, "host", "remove", "absent", "--yes")).code == Exit.FINDINGS


async def test_a_selector_goes_to_enforce_and_back(offline: Cli, tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    write(file, POLICY.replace("mode: enforce}", "mode: enforce}\n  - {select: {role: web}, mode: test}  # new"))
    async with running_controller(tmp_path / "lab") as lab:
        await lab.enrol("web1", {"role": "web"})
        assert (await _call(offline, lab, "push", str(file), "--yes", "--allow-offline")).code == Exit.OK
        listed = (await _call(offline, lab, "enforce", "--ready", "--json")).json["selectors"]
        assert [(one["select"]["tags"], one["phase"], one["hosts"]) for one in listed] == [({"role": "web"}, "test", 1)]
        refused = await _call(offline, lab, "enforce", "role=web", str(file), "--write")
        assert (refused.code, "no flow was seen in this phase" in refused.err) == (Exit.FINDINGS, True)
        moved = await _call(offline, lab, "enforce", "role=web", str(file), "--write", "--anyway", "a drill")
        assert (moved.code, "mode: enforce}  # new" in file.read_text()) == (Exit.OK, True), moved.err
        assert (await _call(offline, lab, "push", str(file), "--yes", "--allow-offline")).code == Exit.OK
        back = await _call(offline, lab, "enforce", "role=web", "--back")
        assert (back.code, "+  - {select: {role: web}, mode: test}  # new" in back.out) == (Exit.OK, True), back.err
        unknown = await _call(offline, lab, "enforce", "rôle=web")
        assert unknown.code == Exit.USAGE
        unknown = await _call(offline, lab, "enforce", "role=mail")
        assert (unknown.code, "declares no value 'mail' of tag role" in unknown.err) == (Exit.FINDINGS, True)
