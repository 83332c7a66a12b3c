"""What a draft would make of the flows of the past, from the report stream to the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from segctl.proto.v1 import admin_pb2, agent_pb2

from tests.controller_harness import ControllerLab, running_controller
from tests.unit.segctl_controller.policies import SHOP
from tests.unit.segctl_controller.test_flowquestions import answer, both_ends
from tests.unit.segctl_controller.test_flows import NOW, SECOND, batch, fleet, flows
from tests.unit.segctl_controller.test_reports import denial, report

HOUR = 3600 * SECOND


async def impact(lab: ControllerLab, policy: str, **fields: Any) -> admin_pb2.DraftImpactFlowsReply:
    source = admin_pb2.PolicySource(files=[admin_pb2.SourceFile(name="policy.yaml", content=policy.encode())])
    return await lab.admin().DraftImpactFlows(admin_pb2.DraftImpactFlowsRequest(source=source, **fields))


async def test_a_draft_is_judged_by_what_was_seen(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        await both_ends(lab)
        reply = await impact(lab, SHOP)
        blocked = {(b.host, b.workload, b.ingress, b.service.low): (b.flows, b.reason) for b in reply.blocked}
        assert blocked == {
            ("db1", "shop-db", True, 22): (2, "default"),
            ("web1", "host", True, 128): (1, "default"),
        }
        assert (reply.blocked_kinds, reply.blocked_flows, reply.judged_flows) == (2, 3, 11)
        without = SHOP.replace("allow: [pg]", "allow: [tcp/99]")
        found = (await impact(lab, without, limit=1)).blocked
        assert [(b.host, b.peer_host, dict(b.peer_tags)["role"], b.flows) for b in found] == [("db1", "web1", "web", 5)]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await impact(lab, "version: 2\n")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_plan_tells_what_it_would_block(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        await both_ends(lab)
        source = admin_pb2.PolicySource(files=[admin_pb2.SourceFile(name="p.yaml", content=SHOP.encode())])
        reply = await lab.admin().Plan(source)
        assert (reply.impact.blocked_flows, len(reply.impact.blocked)) == (3, 2)


WITH_OFFICE = SHOP.replace(
    "rules:",
    "rules:\n  - {name: from-office, from: {peer: office}, to: {}, allow: [tcp/22, tcp/80], owner: ops, why: w}",
)


async def test_a_draft_tells_what_it_comes_to_allow_and_whom_to_ask(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web, _ = await both_ends(lab)
        denials = [
            denial("203.0.113.9", 80, 4),
            denial("198.18.0.1", 80),
            denial("203.0.113.9", 22, verdict="would-deny"),
        ]
        await report(web, batch(2, denials=denials))
        reply = await impact(lab, WITH_OFFICE)
        allowed = [(a.host, a.service.low, a.flows, a.denied, a.was, a.reason, a.rule, a.owner) for a in reply.allowed]
        assert allowed == [
            ("web1", 80, 4, 4, "denied", "rule", "from-office", "ops"),
            ("db1", 22, 2, 0, "denied", "rule", "from-office", "ops"),
        ]
        assert [a.remote for a in reply.allowed] == [bytes([203, 0, 113, 9])] * 2
        assert list(reply.allowed[0].processes) == ["unit:ssh.service"]
        assert (reply.allowed_kinds, reply.allowed_flows) == (2, 6)
        assert (reply.blocked_flows, reply.newly_blocked_flows) == (1, 0)


async def test_what_a_draft_blocks_names_the_rule_that_permits_it_today_and_its_processes(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web, _ = await fleet(lab)
        await report(web, batch(flows=flows(processes=["unit:nginx.service", ""], process=[0, 1])))
        reply = await impact(lab, SHOP.replace("allow: [pg]", "allow: [tcp/99]"))
        [shop] = [b for b in reply.blocked if b.service.low == 5432]
        assert (shop.was, shop.was_rule, shop.owner) == ("allowed", "web-db", "team")
        assert list(shop.processes) == ["unit:nginx.service"]
        [ping] = [b for b in reply.blocked if b.service.low == 128]
        assert (ping.was, ping.was_rule, ping.owner, list(ping.processes)) == ("denied", "", "", [])
        assert (reply.blocked_flows, reply.newly_blocked_flows) == (4, 3)


async def test_a_replay_counts_by_spans(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web, db = await fleet(lab)
        earlier = {"from_us": NOW - 5 * HOUR, "until_us": NOW - 5 * HOUR + 10 * SECOND}
        await report(web, batch(flows=flows(**earlier)), batch(2, denials=[denial("203.0.113.9", 80, 4)]))
        await report(db, batch(flows=answer()))
        since = NOW - 6 * HOUR
        before = lab.controller.clock.now_us()
        reply = await impact(lab, WITH_OFFICE, since_us=since, span_us=HOUR)
        first, last = since - since % HOUR, reply.spans[-1].since_us
        assert before - HOUR < last <= lab.controller.clock.now_us()  # NOW may be of an hour before
        assert [s.since_us for s in reply.spans] == list(range(first, last + 1, HOUR))
        assert {s.until_us - s.since_us for s in reply.spans} == {HOUR}
        busy = [s for s in reply.spans if s.judged_flows or s.allowed_flows]
        assert [(s.judged_flows, s.blocked_flows, s.allowed_flows) for s in busy] == [(4, 1, 0), (7, 0, 2 + 4)]
        assert sum(s.judged_flows for s in reply.spans) == reply.judged_flows
        assert sum(s.blocked_flows for s in reply.spans) == reply.blocked_flows
        assert sum(s.allowed_flows for s in reply.spans) == reply.allowed_flows
        assert not (await impact(lab, WITH_OFFICE)).spans
        for wrong in ({"span_us": 7}, {"span_us": SECOND}, {"span_us": HOUR}, {"since_us": since, "span_us": -HOUR}):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await impact(lab, SHOP, **wrong)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


WEB = "workloads:\n  shop-web: {on: {role: web}, process: {unit: nginx.service}}\n"
WITH_WEB = SHOP.replace("workloads:\n", WEB).replace("from: {role: web}", "from: {workload: shop-web}")


async def told_by_nginx(lab: ControllerLab) -> None:
    web, _ = await fleet(lab)
    await lab.push(WITH_WEB)
    await report(web, batch(flows=flows(processes=["unit:nginx.service", ""], process=[0, 1])))


async def judged(lab: ControllerLab, policy: str) -> tuple[list[tuple[str, str, str, str]], int, int]:
    reply = await impact(lab, policy)
    told = [(b.workload, b.was, b.was_rule, b.reason) for b in reply.blocked if b.service.low == 5432]
    return told, sum(b.flows for b in reply.allowed if b.service.low == 5432), reply.newly_blocked_flows


async def test_a_workload_under_a_new_name_was_permitted_under_the_old_one(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        await told_by_nginx(lab)
        renamed = WITH_WEB.replace("shop-web", "front")
        assert await judged(lab, renamed) == ([], 0, 0)
        closed = renamed.replace("allow: [pg]", "allow: [tcp/99]")
        assert await judged(lab, closed) == ([("front", "allowed", "web-db", "default")], 0, 3)
        since = NOW - HOUR
        [span] = [s for s in (await impact(lab, renamed, since_us=since, span_us=HOUR)).spans if s.judged_flows]
        assert (span.blocked_flows, span.allowed_flows) == (1, 0)


async def test_a_process_that_a_draft_takes_from_a_workload_is_judged_without_its_rules(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        await told_by_nginx(lab)
        elsewhere = WITH_WEB.replace("nginx.service", "new.service")
        assert await judged(lab, elsewhere) == ([("host", "allowed", "web-db", "default")], 0, 3)
        wide = WITH_WEB.replace("nginx.service", "'ngin*.service'")
        assert await judged(lab, wide) == ([], 0, 0)
        await lab.push(wide)
        narrower = wide.replace("workloads:\n", WEB.replace("shop-web", "admin"))
        assert await judged(lab, narrower) == ([("admin", "allowed", "web-db", "default")], 0, 3)


async def test_a_denied_container_is_no_login(tmp_path: Path) -> None:
    """Its executable says nothing: it is another file system's."""
    async with running_controller(tmp_path) as lab:
        web, _ = await fleet(lab)
        process = agent_pb2.ProcessInfo(pid=7, exe="/usr/bin/curl", user="root", unit="container:job")
        await report(web, batch(denials=[denial("10.0.0.2", 5433, 4, ingress=False, process=process)]))
        logins = SHOP.replace("workloads:\n", "workloads:\n  logins: {on: {role: web}, process: {unit: user.slice}}\n")
        rule = "  - {name: l, from: {workload: logins}, to: {role: db}, allow: [tcp/5433], owner: o, why: w}\n"
        draft = logins.replace("rules:\n", "rules:\n" + rule)
        assert not (await impact(lab, draft)).allowed
