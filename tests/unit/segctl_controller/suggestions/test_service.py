"""Suggestions at a real controller: from the reports of agents to rules, decisions, and what owners may decide."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
from segctl.policy.parse import parse_policy
from segctl.policy.source import SourceFile
from segctl.proto.v1 import admin_pb2, agent_pb2
from segctl_controller.store.records import Role

from tests.controller_harness import ControllerLab, running_controller
from tests.unit.segctl_controller.policies import SHOP
from tests.unit.segctl_controller.test_admin import Code, everything, refusal, source
from tests.unit.segctl_controller.test_flows import NOW, batch, mapped
from tests.unit.segctl_controller.test_reports import denial, report

DAY = 86_400_000_000
POSTGRES = "unit:postgresql@15-main.service"
POLICY = SHOP.replace("allow: [pg]", "allow: [tcp/1]")


def told(day: int, peers: list[str], **columns: Any) -> agent_pb2.FlowBatch:
    """One row for each peer, some days ago."""
    at, rows = NOW - day * DAY, len(peers)
    every = {"workload": 0, "rule": 0, "process": 0, "protocol": 6, "port": 5432, "flows": 3, "verdict": 2}
    every |= {"bytes_sent": 0, "bytes_received": 0, "first_ms": 0, "last_ms": 9, "direction": 0, **columns}
    lists = {name: [value] * rows for name, value in every.items() if isinstance(value, int)}
    texts = {"workloads": ["host"], "rules": [""], "processes": ["unit:nginx.service"]}
    texts |= {name: value for name, value in columns.items() if isinstance(value, list)}
    remotes = b"".join(map(mapped, peers))
    return agent_pb2.FlowBatch(from_us=at - 10_000_000, until_us=at, remotes=remotes, **lists, **texts)


async def observed(lab: ControllerLab) -> None:
    """Ten days on which nginx of two web servers called the database of db1."""
    web = [await lab.enrol(f"web{n}", {"role": "web", "env": "prod"}) for n in (1, 2)]
    db = await lab.enrol("db1", {"role": "db", "env": "prod"})
    await everything(lab.admin().Push(admin_pb2.PushRequest(source=source(POLICY), wait_seconds=1)))
    async with AsyncExitStack() as sessions:
        for agent, address in ((web[0], "10.0.0.1"), (web[1], "10.0.0.3"), (db, "10.0.0.2")):
            await sessions.enter_async_context(agent.session(addresses=[address]))
        for day in range(10):
            for number, agent in enumerate(web):
                more = {"denials": [denial("10.0.0.2", 22, 1)]} if (number, day) == (0, 0) else {}
                await report(agent, batch(day + 1, flows=told(day, ["10.0.0.2"]), **more))
            answered = told(day, ["10.0.0.1", "10.0.0.3"], direction=1, workloads=["shop-db"], processes=[POSTGRES])
            await report(db, batch(day + 1, flows=answered))


async def asked(lab: ControllerLab, name: str = "root") -> admin_pb2.SuggestReply:
    return await lab.admin(name).Suggest(admin_pb2.SuggestRequest())


def decision(one: admin_pb2.RuleSuggestion, verdict: str, **fields: str) -> admin_pb2.DecideSuggestionRequest:
    texts = {"suggested": one.whole, "decided": one.policy if verdict == "accepted" else "", **fields}
    return admin_pb2.DecideSuggestionRequest(id=one.id, verdict=verdict, **texts)


async def test_flows_become_a_rule_that_stands_beside_the_policy(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        await observed(lab)
        reply = await asked(lab)
        [one] = reply.suggestions
        assert (one.source, one.destination, list(one.services)) == ("nginx", "shop-db env=prod", ["pg"])
        assert (one.sightings, one.hosts, one.of_hosts, one.rhythm) == (10, 2, 2, "steady")
        assert {left.reason for left in reply.left_out} == {"denied"}
        files = (SourceFile("a", POLICY.encode()), SourceFile("b", reply.policy.encode()))
        parsed = parse_policy(files)
        assert parsed.policy is not None, parsed.findings
        check = await lab.admin().Check(
            admin_pb2.PolicySource(files=[admin_pb2.SourceFile(name=f.name, content=f.content) for f in files])
        )
        assert [f.message for f in check.findings if f.severity == "error"] == []
        assert "owner: team" in reply.policy  # who owns the other rule to that workload


async def test_what_is_decided_is_kept_and_shapes_what_is_suggested(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        await observed(lab)
        [one] = (await asked(lab)).suggestions
        admin = lab.admin()
        await admin.DecideSuggestion(decision(one, "accepted"))
        [again] = (await asked(lab)).suggestions
        assert (again.id, again.decision.verdict, again.decision.actor) == (one.id, "accepted", "root")
        await admin.DecideSuggestion(decision(one, "rejected", reason="no longer"))
        later = await asked(lab)
        assert list(later.suggestions) == []
        assert "rejected by root: no longer" in [left.why for left in later.left_out]
        [kept] = (await admin.ListDecisions(admin_pb2.ListDecisionsRequest())).decisions
        assert (kept.verdict, kept.rule, kept.reason) == ("rejected", one.name, "no longer")
        await admin.DecideSuggestion(admin_pb2.DecideSuggestionRequest(id=one.id, verdict="forgotten"))
        assert len((await asked(lab)).suggestions) == 1
        entries = (await admin.Audit(admin_pb2.AuditRequest(subject=f"suggestion {one.id}"))).entries
        actions = ["suggestion-forgotten", "suggestion-rejected", "suggestion-accepted"]
        assert [entry.action for entry in entries] == actions
        assert lab.controller.registry.fleet.active.number == 1  # no decision changed the policy


async def test_decisions_that_do_not_hold_together_are_refused(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        await observed(lab)
        [one] = (await asked(lab)).suggestions
        admin = lab.admin()
        other = one.whole.replace("tcp/5432", "tcp/22")
        for request, words in (
            (decision(one, "maybe"), "one of accepted"),
            (decision(one, "rejected"), "say why"),
            (decision(one, "rejected", reason="a\nb"), "one line"),
            (decision(one, "accepted", suggested=other), "not the policy file of that suggestion"),
            (decision(one, "accepted", suggested="version: 1"), "not the policy file of that suggestion"),
            (decision(one, "rejected", reason="x", suggested="x" * 70_000), "at most"),
        ):
            code, text = await refusal(admin.DecideSuggestion(request))
            assert code is Code.INVALID_ARGUMENT and words in text, text
        code, _ = await refusal(admin.DecideSuggestion(decision(one, "edited", decided="version: 1\nrules: [{}]")))
        assert code in (Code.FAILED_PRECONDITION, Code.INVALID_ARGUMENT)
        code, _ = await refusal(admin.DecideSuggestion(admin_pb2.DecideSuggestionRequest(id="x", verdict="forgotten")))
        assert code is grpc.StatusCode.NOT_FOUND
        for since, until in ((NOW, NOW - DAY), (NOW - 60 * DAY, NOW), (-1, NOW)):
            code, _ = await refusal(admin.Suggest(admin_pb2.SuggestRequest(since_us=since, until_us=until)))
            assert code is Code.INVALID_ARGUMENT


async def test_owners_decide_about_their_part_and_viewers_about_nothing(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        await observed(lab)
        lab.operator("vera", Role.VIEWER)
        lab.operator("dora", Role.OWNER, {"role": "db"})
        lab.operator("wim", Role.OWNER, {"role": "web"})
        [one] = (await asked(lab, "vera")).suggestions
        code, _ = await refusal(lab.admin("vera").DecideSuggestion(decision(one, "accepted")))
        assert code is Code.PERMISSION_DENIED
        for verdict, reason in (("accepted", ""), ("rejected", "mine")):
            code, text = await refusal(lab.admin("wim").DecideSuggestion(decision(one, verdict, reason=reason)))
            assert code is Code.PERMISSION_DENIED and "belongs to role=web" in text
        # The caller's process needs a workload on web servers, which is not the database owner's to declare.
        code, _ = await refusal(lab.admin("dora").DecideSuggestion(decision(one, "accepted")))
        assert code is Code.PERMISSION_DENIED
        await lab.admin().DecideSuggestion(decision(one, "accepted"))
        forgetting = admin_pb2.DecideSuggestionRequest(id=one.id, verdict="forgotten")
        code, _ = await refusal(lab.admin("wim").DecideSuggestion(forgetting))
        assert code is Code.PERMISSION_DENIED
