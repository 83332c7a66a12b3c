"""Both halves of the wire at once: the agent's enrolment, session and reports against the real controller. Only the
kernel is a fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from segctl.errors import EnrolmentError
from segctl.proto.v1 import admin_pb2
from segctl.proto.v1 import agent_pb2 as pb
from segctl_agent.agent import Agent
from segctl_agent.channel import Backoff
from segctl_agent.credentials import Identity, load_identity
from segctl_agent.enforcer import Enforcer
from segctl_agent.enrol import enrol
from segctl_agent.jointoken import parse_join_token
from segctl_agent.nft.digest import kernel_digest
from segctl_agent.nft.kernel import FakeKernel
from segctl_agent.reports import ReportQueue
from segctl_agent.session import Session
from segctl_agent.state import StateFolder

from tests.controller_harness import ControllerLab, running_controller

POLICY = """
version: 1
tags: {role: [web, db]}
services: {sql: [tcp/5432]}
workloads:
  db: {on: {role: db}, process: {unit: db.service}}
modes:
  - {select: {role: db}, mode: %s}
rules:
  - {name: web-to-db, from: {role: web}, to: {workload: db}, allow: [sql], owner: o, why: w}
essentials:
  dns: [192.0.2.53]
  rescue: {from: [198.51.100.0/28]}
"""
PATIENCE = 10.0


@dataclass
class RealAgent:
    """`segctl-agent run` without the watchers: the test tells what happens on the host."""

    state: Path
    kernel: FakeKernel
    agent: Agent
    session: Session
    reports: ReportQueue


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)


async def reaches(lab: ControllerLab, condition: Callable[[admin_pb2.HostStatus], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition((await lab.hosts())["db-1"]):  # noqa: ASYNC110 - it is on the other side of the wire
            await asyncio.sleep(0.02)


async def enrolled(lab: ControllerLab, state: Path, name: str, **token: object) -> Identity:
    reply = await lab.token({"role": "db"}, **token)
    join = parse_join_token(reply.join)
    return await asyncio.to_thread(enrol, state, join, name, False, datetime.now(UTC))


@asynccontextmanager
async def running_agent(state: Path, address: str, kernel: FakeKernel | None = None) -> AsyncIterator[RealAgent]:
    identity = load_identity(state)
    assert identity is not None
    kernel = kernel or FakeKernel()
    reports = ReportQueue()
    agent = Agent(StateFolder(state), identity.host, Enforcer(kernel, lambda _: {}, 0), reports)
    agent.addresses_changed(frozenset({ip_address(address), ip_address("127.0.0.1"), ip_address("fe80::1")}))
    agent.start()
    session = Session(identity, agent, reports, "boot-1", backoff=Backoff(0.02, 0.1))
    agent.facts_changed, agent.report_waiting = session.facts_changed, session.reports_waiting.set
    agent.in_force_changed = session.in_force_changed
    task = asyncio.create_task(session.run())
    try:
        yield RealAgent(state, kernel, agent, session, reports)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def proofs(progress: list[admin_pb2.PushProgress]) -> dict[str, tuple[str, str]]:
    return {p.host.host: (p.host.state, p.host.kernel_digest) for p in progress if p.WhichOneof("kind") == "host"}


async def test_a_push_is_proven_by_what_the_kernel_holds(tmp_path: Path) -> None:
    async with running_controller(tmp_path / "controller") as lab:
        identity = await enrolled(lab, tmp_path / "agent", "db-1")
        assert identity.host == "db-1"
        assert identity.controllers == (lab.address,)
        async with running_agent(tmp_path / "agent", "10.0.0.1") as real:
            await until(lambda: real.session.connected_to)
            progress = await lab.push(POLICY % "enforce", wait=5)
            assert real.kernel.content is not None
            assert proofs(progress) == {"db-1": ("proven", kernel_digest(real.kernel.content))}
            host = (await lab.hosts())["db-1"]
            assert list(host.addresses) == ["10.0.0.1"]
            assert (host.connected, host.state) == (True, "in-sync")
            stored = StateFolder(tmp_path / "agent").read_generation().stored
            assert stored is not None
            assert stored.value == real.agent.enforcer.policy


async def test_a_restart_of_the_agent_changes_nothing_and_is_in_sync_at_once(tmp_path: Path) -> None:
    async with running_controller(tmp_path / "controller") as lab:
        await enrolled(lab, tmp_path / "agent", "db-1")
        async with running_agent(tmp_path / "agent", "10.0.0.1") as real:
            await until(lambda: real.session.connected_to)
            await lab.push(POLICY % "enforce", wait=5)
            kernel = real.kernel
        batches = len(kernel.batches)
        async with running_agent(tmp_path / "agent", "10.0.0.1", kernel) as real:
            await until(lambda: real.session.connected_to)
            await reaches(lab, lambda host: host.state == "in-sync")
            assert len(kernel.batches) == batches


async def test_units_and_denials_reach_the_operator(tmp_path: Path) -> None:
    async with running_controller(tmp_path / "controller") as lab:
        await enrolled(lab, tmp_path / "agent", "db-1")
        async with running_agent(tmp_path / "agent", "10.0.0.1") as real:
            await until(lambda: real.session.connected_to)
            await lab.push(POLICY % "enforce", wait=5)
            real.agent.cgroups_changed({"system.slice": 5, "system.slice/db.service": 42}, {})
            await reaches(lab, lambda host: any(list(w.cgroups) for w in host.workloads))
            real.reports.add_denial(
                pb.Denial(
                    ingress=True,
                    verdict="denied",
                    workload="db",
                    remote=ip_address("10.0.0.9").packed,
                    service={"protocol": "tcp", "low": 22, "high": 22},
                    count=3,
                    first_seen_us=1,
                    last_seen_us=2,
                )
            )
            real.agent.report_waiting()
            await until(lambda: real.reports.waiting == 0)
            shown = [d async for d in lab.admin().Denied(admin_pb2.DeniedRequest())]
            assert [(d.connection.denial.workload, d.connection.denial.count) for d in shown] == [("db", 3)]


async def test_a_live_probe_is_answered_from_the_kernel(tmp_path: Path) -> None:
    async with running_controller(tmp_path / "controller") as lab:
        await enrolled(lab, tmp_path / "agent", "db-1")
        async with running_agent(tmp_path / "agent", "10.0.0.1") as real:
            await until(lambda: real.session.connected_to)
            await lab.push(POLICY % "enforce", wait=5)
            request = admin_pb2.ExplainRequest(source="192.0.2.7", destination="db-1/db", service="tcp/5432", live=True)
            reply = await lab.admin().Explain(request)
            ends = [(e.verdict, e.kernel_verdict) for e in reply.ends if e.host == "db-1"]
            assert ends == [("denied", "denied")], reply
            assert not reply.differs


async def test_a_release_is_seen_and_its_end_brings_the_newest_generation(tmp_path: Path) -> None:
    live = admin_pb2.ExplainRequest(source="192.0.2.7", destination="db-1/db", service="tcp/5432", live=True)
    async with running_controller(tmp_path / "controller") as lab:
        await enrolled(lab, tmp_path / "agent", "db-1")
        async with running_agent(tmp_path / "agent", "10.0.0.1") as real:
            await until(lambda: real.session.connected_to)
            await lab.push(POLICY % "enforce", wait=5)
            StateFolder(tmp_path / "agent").hold("released by alice at noon")
            real.agent.check_hold()
            await reaches(lab, lambda host: host.state == "released")
            host = (await lab.hosts())["db-1"]
            assert (host.kernel_generation, {w.mode for w in host.workloads}) == (0, {""})
            [trouble] = host.troubles
            assert trouble.text == "released by alice at noon: nothing is enforced on this host"
            assert trouble.next == "segctl-agent load on the host, when the emergency is over"
            assert list(host.problems) == [f"{trouble.text}; {trouble.next}"]
            reply = await lab.admin().Explain(live)
            assert [(e.verdict, e.kernel_verdict) for e in reply.ends if e.host == "db-1"] == [("denied", "allowed")]
            assert reply.differs
            progress = await lab.push(POLICY % "observe", wait=5)
            assert proofs(progress) == {"db-1": ("released", "")}
            assert progress[-1].done.released == 1
        await reaches(lab, lambda host: host.state == "offline")
        away = (await lab.hosts())["db-1"]
        assert "nothing is enforced on this host" in away.problems[0]
        assert not any("keeps its last policy" in problem for problem in away.problems)
        async with running_agent(tmp_path / "agent", "10.0.0.1", real.kernel) as real:
            await until(lambda: real.session.connected_to)
            await reaches(lab, lambda host: host.state == "released")  # a restart of the agent ends no release
            StateFolder(tmp_path / "agent").end_hold()
            real.agent.check_hold()
            await reaches(lab, lambda host: host.state == "in-sync" and host.kernel_generation == 2)
            assert not (await lab.hosts())["db-1"].problems


async def test_a_host_without_a_generation_does_not_differ_from_no_policy(tmp_path: Path) -> None:
    request = admin_pb2.ExplainRequest(source="192.0.2.7", destination="db-1", service="tcp/5432", live=True)
    async with running_controller(tmp_path / "controller") as lab:
        await enrolled(lab, tmp_path / "agent", "db-1")
        never = (await lab.hosts())["db-1"]
        assert (never.state, {w.mode for w in never.workloads}) == ("never-connected", {""})
        assert "enforces nothing until it first connects" in never.problems[0]
        async with running_agent(tmp_path / "agent", "10.0.0.1") as real:
            await until(lambda: real.session.connected_to)
            reply = await lab.admin().Explain(request)
            end = next(e for e in reply.ends if e.host == "db-1")
            assert end.kernel_verdict == "allowed", reply
            assert "no generation yet: nothing is enforced" in end.kernel_detail
            assert not reply.differs


async def test_a_push_knows_a_host_that_never_connected(tmp_path: Path) -> None:
    async with running_controller(tmp_path / "controller") as lab:
        await enrolled(lab, tmp_path / "agent", "db-1")
        steps = await lab.push(POLICY % "enforce", wait=1)
        host = next(p.host for p in steps if p.WhichOneof("kind") == "host")
        assert (host.state, host.never_connected) == ("offline", True)


async def test_a_host_that_was_removed_says_why_it_has_no_session(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_controller(tmp_path / "controller") as lab:
        await enrolled(lab, tmp_path / "agent", "db-1")
        async with running_agent(tmp_path / "agent", "10.0.0.1") as real:
            await until(lambda: real.session.connected_to)
            await lab.admin().RemoveHost(admin_pb2.RemoveHostRequest(host="db-1"))
            await until(lambda: "is not enrolled, or was removed" in real.session.problem)
            assert not real.session.connected_to
    assert "to bring it back, enrol it with a new token; the rules in force stay in force" in caplog.text


async def test_a_host_that_is_enrolled_anew_gets_its_policy(tmp_path: Path) -> None:
    async with running_controller(tmp_path / "controller") as lab:
        await enrolled(lab, tmp_path / "agent", "db-1")
        async with running_agent(tmp_path / "agent", "10.0.0.1") as real:
            await until(lambda: real.session.connected_to)
            await lab.push(POLICY % "observe", wait=5)
            kernel = real.kernel
        join = parse_join_token((await lab.token({"role": "db"}, host="db-1", replace=True)).join)
        await asyncio.to_thread(enrol, tmp_path / "agent", join, "db-1", True, datetime.now(UTC))
        async with running_agent(tmp_path / "agent", "10.0.0.1", kernel):
            await reaches(lab, lambda host: host.connected and host.state == "in-sync")


async def test_a_used_token_is_refused_in_the_controllers_words(tmp_path: Path) -> None:
    async with running_controller(tmp_path / "controller") as lab:
        join = parse_join_token((await lab.token({"role": "db"})).join)
        await asyncio.to_thread(enrol, tmp_path / "one", join, "db-1", False, datetime.now(UTC))
        with pytest.raises(EnrolmentError, match=r"token"):
            await asyncio.to_thread(enrol, tmp_path / "two", join, "db-2", False, datetime.now(UTC))


async def test_a_taken_name_is_refused(tmp_path: Path) -> None:
    async with running_controller(tmp_path / "controller") as lab:
        await enrolled(lab, tmp_path / "one", "db-1")
        with pytest.raises(EnrolmentError, match=r"name 'db-1' is taken"):
            await enrolled(lab, tmp_path / "two", "db-1")
