"""Phases and the life of rules, from what hosts told to the answer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from segctl.policy.parse import parse_policy
from segctl.policy.source import SourceFile
from segctl.proto.v1 import admin_pb2, agent_pb2
from segctl_controller.clock import Clock
from segctl_controller.life.history import PolicyHistory

from tests.controller_harness import ControllerLab, FakeAgent, running_controller
from tests.unit.segctl_controller.policies import SHOP
from tests.unit.segctl_controller.test_flows import batch, flows, mapped
from tests.unit.segctl_controller.test_reports import addressed, denial, report

DAY = 24 * 3600 * 1_000_000
TESTED = SHOP.replace("{select: {}, mode: enforce}", "{select: {env: prod}, mode: test}")
IN_TEST = admin_pb2.Selection(tags={"env": "prod"})


@dataclass
class Hands:
    """Of the clock, which stand some days back for what happened before."""

    days_ago: float = 0.0

    def now_us(self) -> int:
        return time.time_ns() // 1000 - int(self.days_ago * DAY)


async def pushed(lab: ControllerLab, clock: Hands, days_ago: float, policy: str) -> None:
    clock.days_ago = days_ago
    await lab.push(policy)
    clock.days_ago = 0.0


async def fleet(lab: ControllerLab) -> tuple[FakeAgent, FakeAgent]:
    web = await lab.enrol("web1", {"role": "web", "env": "prod"})
    db = await lab.enrol("db1", {"role": "db", "env": "prod"})
    await addressed(lab, web, "10.0.0.1")
    await addressed(lab, db, "10.0.0.2")
    return web, db


def told(clock: Hands, days_ago: float, port: int = 5432, rule: str = "web-db", **fields: Any) -> agent_pb2.FlowBatch:
    """What web1 says of its flows to db1 on that day."""
    at = clock.now_us() - int(days_ago * DAY)
    one: dict[str, Any] = {
        "from_us": at - 1_000_000,
        "until_us": at,
        "workloads": ["host"],
        "rules": [rule],
        "workload": [0],
        "rule": [0],
        "direction": [0],
        "remotes": mapped("10.0.0.2"),
        "protocol": [6],
        "port": [port],
        "flows": [10],
        "bytes_sent": [0],
        "bytes_received": [0],
        "first_ms": [0],
        "last_ms": [1000],
        "verdict": [0 if rule else 1],
    }
    return flows(**{**one, **fields})


async def readiness(lab: ControllerLab, *selectors: admin_pb2.Selection, **fields: Any) -> list[admin_pb2.Readiness]:
    return list((await lab.admin().Readiness(admin_pb2.ReadinessRequest(selectors=selectors, **fields))).selectors)


def codes(one: admin_pb2.Readiness) -> list[str]:
    return [obstacle.code for obstacle in one.obstacles]


async def test_a_selector_becomes_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Hands()
    async with running_controller(tmp_path, Clock(clock.now_us)) as lab:
        web, _ = await fleet(lab)
        await pushed(lab, clock, 25, SHOP.replace("mode: enforce", "mode: observe"))
        await pushed(lab, clock, 8.5, TESTED)
        [one] = await readiness(lab)
        assert (dict(one.select.tags), one.phase, one.next, one.hosts) == ({"env": "prod"}, "test", "enforce", 2)
        assert (one.since_known, round((clock.now_us() - one.since_us) / DAY, 1)) == (True, 8.5)
        assert codes(one) == ["silent"]

        # A backup every five days, last seen a day before the phase began; and something that no rule explains.
        weekly = [told(clock, days, port=873, rule="") for days in (24.5, 19.5, 14.5, 9.5)]
        for at, one_batch in enumerate([*weekly, *(told(clock, day) for day in range(8))]):
            await report(web, batch(at + 1, flows=one_batch))
        [one] = await readiness(lab)
        assert (one.flows, one.covered, one.days, codes(one)) == (80, 80, 8.0, ["periodic"])
        [job] = one.periodic
        assert (job.every_days, job.flow.service.low, job.explained, one.periodic_kinds) == (5, 873, False, 1)
        assert (job.flow.host, job.flow.peer_host, dict(job.flow.peer_tags)["role"]) == ("web1", "db1", "db")

        await report(web, batch(13, flows=told(clock, 0.5, port=9999, rule="")))
        await report(web, batch(14, flows=told(clock, 2, port=9998, rule="", flows=[3])))
        noon = {"first_seen_us": clock.now_us() - DAY // 2, "last_seen_us": clock.now_us() - DAY // 2}
        short = denial("203.0.113.9", 25, 4, verdict="would-deny", ingress=False, **noon)
        await report(web, batch(15, denials=[short, denial("203.0.113.9", 26, 4, verdict="denied")]))
        [one] = await readiness(lab)
        assert (one.unexplained, one.unexplained_kinds, one.coming) == (17, 3, 14)
        assert [(f.service.low, f.flows) for f in one.top] == [(9999, 10), (25, 4), (9998, 3)]
        assert one.top[1].process == "exe:/usr/sbin/sshd"
        assert codes(one) == ["uncovered", "coming", "periodic"]
        monkeypatch.setattr("segctl_controller.life.ready.MOST_KINDS", 2)
        [one] = await readiness(lab)
        assert "incomplete" in codes(one)
        monkeypatch.undo()
        [one] = await readiness(lab, IN_TEST, since_us=clock.now_us() - DAY // 4, least_days=30)
        assert (one.flows, codes(one)) == (10, ["young", "periodic"])

        rule = "\n  - {name: all, from: {role: web}, to: {role: db}, allow: [any], owner: o, why: w}"
        boundary = "\n  - {name: no-mail, from: {role: web}, to: {peer: any}}"
        more = TESTED.replace("\nrules:", f"{boundary}\nrules:{rule}").replace("\n\n", "\n")
        await pushed(lab, clock, 0, more)
        [one] = await readiness(lab)
        assert (one.unexplained, one.bounded, one.covered, one.coming, codes(one)) == (0, 4, 93, 0, ["periodic"])
        await report(web, batch(16, flows=told(clock, 0.1, port=873, rule="all")))
        [one] = await readiness(lab)
        assert (one.ready, codes(one)) == (True, [])


async def test_tests_that_broke_since_the_push_keep_a_selector(tmp_path: Path) -> None:
    clock = Hands()
    async with running_controller(tmp_path, Clock(clock.now_us)) as lab:
        web, _ = await fleet(lab)
        ended = (datetime.now(UTC) - timedelta(days=1)).date()
        policy = TESTED.replace("why: orders}", f"why: orders, expires: {ended}}}")
        test = "tests:\n  - {from: {role: web}, to: {workload: shop-db}, allow: [pg]}\n"
        await pushed(lab, clock, 9, policy + test)
        await report(web, batch(1, flows=told(clock, 1)))
        [one] = await readiness(lab)
        assert (one.tests, len(one.broken_tests), codes(one)[0]) == (1, 1, "tests")


async def test_the_list_has_an_end_and_a_fleet_without_modes_is_one_selector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Hands()
    async with running_controller(tmp_path, Clock(clock.now_us)) as lab:
        await fleet(lab)
        entries = ", ".join(f"{{select: {{{tags}}}, mode: test}}" for tags in ("env: prod", "env: dev", "role: db"))
        await pushed(lab, clock, 1, SHOP.replace("  - {select: {}, mode: enforce}", f"  [{entries}]"))
        assert len(await readiness(lab)) == 3
        monkeypatch.setattr("segctl_controller.life.ready.MOST_SELECTORS", 2)
        reply = await lab.admin().Readiness(admin_pb2.ReadinessRequest())
        assert (len(reply.selectors), reply.more, reply.generation) == (2, True, 1)
        await pushed(lab, clock, 0, SHOP.replace("modes:\n  - {select: {}, mode: enforce}\n", ""))
        [one] = await readiness(lab)
        assert (dict(one.select.tags), one.phase, one.hosts) == ({}, "observe", 2)


async def test_who_enforces_and_who_is_nowhere_is_not_ready(tmp_path: Path) -> None:
    clock = Hands()
    async with running_controller(tmp_path, Clock(clock.now_us)) as lab:
        await fleet(lab)
        assert await readiness(lab) == []
        await pushed(lab, clock, 1, SHOP)
        assert await readiness(lab) == []
        dev = admin_pb2.Selection(tags={"env": "dev"}, workload="shop-db")
        one, other = await readiness(lab, IN_TEST, dev)
        assert (one.phase, one.next, one.ready, one.hosts, codes(one)) == ("enforce", "", False, 2, [])
        assert (other.phase, other.hosts) == ("enforce", 0)
        for wrong in (
            {"selectors": [admin_pb2.Selection(tags={"evn": "prod"})]},
            {"selectors": [admin_pb2.Selection(tags={"env": "test"})]},
            {"selectors": [admin_pb2.Selection(workload="nobody")]},
            {"selectors": [admin_pb2.Selection(workload="w" * 65)]},
            {"selectors": [IN_TEST] * 65},
            {"since_us": -1},
            {"least_days": 99999},
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await lab.admin().Readiness(admin_pb2.ReadinessRequest(**wrong))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, wrong


async def life(lab: ControllerLab, **fields: Any) -> dict[str, admin_pb2.RuleLife]:
    reply = await lab.admin().RuleReport(admin_pb2.RuleReportRequest(**fields))
    assert reply.window_days == 30
    return {one.use.rule: one for one in reply.rules}


def kinds(one: admin_pb2.RuleLife) -> list[str]:
    return [finding.kind for finding in one.findings]


async def test_what_becomes_of_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Hands()
    async with running_controller(tmp_path, Clock(clock.now_us)) as lab:
        web, _ = await fleet(lab)
        await lab.enrol("app1", {"role": "web", "env": "dev"})
        wide = "\n  - {name: wide, from: {role: web}, to: {role: db}, allow: [tcp/1-65535], owner: unknown, why: w}"
        await pushed(lab, clock, 40, SHOP)
        policy = SHOP.replace("rules:", f"rules:{wide}")
        await pushed(lab, clock, 20, policy)
        await pushed(lab, clock, 10, policy.replace("why: w}", "why: better words}"))
        hits = [agent_pb2.RuleHits(rule="wide", count=5, last_hit_us=clock.now_us() - 6 * DAY)]
        await report(web, batch(1, flows=told(clock, 6, rule="wide", port=5432), hits=hits))
        found = await life(lab)
        assert list(found) == ["wide", "web-db"]
        assert (found["wide"].owner, found["wide"].why, found["wide"].use.count) == ("unknown", "better words", 5)
        assert round((clock.now_us() - found["wide"].since_us) / DAY) == 20
        assert kinds(found["wide"]) == ["no-owner", "too-broad"]
        [broad] = [f for f in found["wide"].findings if f.kind == "too-broad"]
        # One file with the rule that it should be, which stands where the wide one did.
        narrower = SourceFile("n.yaml", broad.narrower.encode())
        whole = parse_policy([SourceFile("p.yaml", SHOP.encode()), narrower]).policy
        assert whole is not None
        [rule] = [r for r in whole.rules if r.name == "wide"]
        assert rule.allow == ("pg",)
        assert kinds(found["web-db"]) == ["shadowed", "never-hit"]
        assert "in the 40 days that" in found["web-db"].findings[1].why
        assert kinds((await life(lab, rule="wide", stale_days=5))["wide"]) == ["no-owner", "stale", "too-broad"]
        monkeypatch.setattr("segctl_controller.life.rulereport.MOST_USED", 1)
        reply = await lab.admin().RuleReport(admin_pb2.RuleReportRequest())
        assert (reply.more, kinds(reply.rules[0])) == (True, ["no-owner"])
        for fields, code in (
            ({"rule": "nobody"}, grpc.StatusCode.NOT_FOUND),
            ({"rule": "r" * 65}, grpc.StatusCode.INVALID_ARGUMENT),
            ({"stale_days": 99999}, grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await life(lab, **fields)
            assert caught.value.code() is code


async def test_history_is_read_once_and_as_far_as_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Hands()
    async with running_controller(tmp_path, Clock(clock.now_us)) as lab:
        await fleet(lab)
        for days_ago in (9, 6, 3):
            await pushed(lab, clock, days_ago, SHOP.replace("why: orders", f"why: orders of {days_ago}"))
        policy = parse_policy([SourceFile("p.yaml", SHOP.encode())]).policy
        assert policy is not None
        history = PolicyHistory(lab.controller.db)
        monkeypatch.setattr("segctl_controller.life.history.PATIENCE", -1.0)
        assert not (await history.past()).rules(policy)["web-db"].known
        monkeypatch.setattr("segctl_controller.life.history.PATIENCE", 10.0)
        age = (await history.past()).rules(policy)["web-db"]
        assert (age.known, round((clock.now_us() - age.since_us) / DAY)) == (True, 9)
        monkeypatch.setattr("segctl_controller.life.history.PATIENCE", -1.0)
        assert (await history.past()).rules(policy)["web-db"] == age
        monkeypatch.setattr("segctl_controller.life.history.MOST_STATEMENTS", 1)
        monkeypatch.setattr("segctl_controller.life.history.PATIENCE", 10.0)
        history = PolicyHistory(lab.controller.db)
        assert (await history.past()).rules(policy)["web-db"] == age
