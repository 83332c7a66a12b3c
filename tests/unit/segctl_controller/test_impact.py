"""Which live connections a plan would cut: asked over the session, bounded, and never trusted too far."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from segctl.errors import WireError
from segctl.proto.v1 import admin_pb2, agent_pb2, hostpolicy_pb2
from segctl_controller.contest import Origin
from segctl_controller.errors import LimitError
from segctl_controller.impact import NAMED_BY_HOST, SECONDS, check_reply
from segctl_controller.messages import PART, draft_messages
from segctl_controller.session import HEARTBEAT, MOST_IMPACTS, Session

from tests.controller_harness import ControllerLab, FakeSession, eventually, running_controller
from tests.unit.segctl_controller.policies import BROKEN_TEST, SHOP

MASK = 0xFFFFFF80
CUT = SHOP.replace("allow: [pg]", "allow: [tcp/8080]")
HOSTS: Mapping[str, tuple[dict[str, str], str]] = {
    "web1": ({"role": "web", "env": "prod"}, "10.0.0.1"),
    "db1": ({"role": "db", "env": "prod"}, "10.0.0.2"),
}


def connection(port: int = 5432, remote: str = "10.0.0.2", **fields: Any) -> agent_pb2.LiveConnection:
    values: dict[str, Any] = {
        "workload": "host",
        "remote": ip_address(remote).packed,
        "service": hostpolicy_pb2.PortRange(protocol="tcp", low=port, high=port),
        "local_port": 40_000,
        "process": agent_pb2.ProcessInfo(pid=7, exe="/usr/bin/psql", command="psql", user="app"),
        "rule": "web-db",
    }
    return agent_pb2.LiveConnection(**{**values, **fields})


def source(policy: str) -> admin_pb2.PolicySource:
    return admin_pb2.PolicySource(files=[admin_pb2.SourceFile(name="p.yaml", content=policy.encode())])


@dataclass(slots=True)
class Fleet:
    lab: ControllerLab
    sessions: dict[str, FakeSession]

    async def plan(self, policy: str = CUT) -> admin_pb2.PlanReply:
        return await self.lab.admin().Plan(source(policy))

    async def answer(self, host: str, **reply: Any) -> None:
        request, _ = await self.sessions[host].draft()
        await self.sessions[host].send(impact=agent_pb2.ImpactReply(**{"id": request.id, **reply}))


async def connect(stack: AsyncExitStack, lab: ControllerLab, masks: Mapping[str, int]) -> Fleet:
    """The hosts with a mask are connected, and hold SHOP."""
    sessions = {}
    for name, (tags, address) in HOSTS.items():
        agent = await lab.enrol(name, tags)
        if name in masks:
            sessions[name] = await stack.enter_async_context(agent.session([address], mark_mask=masks[name]))
            await sessions[name].receive()
    pushing = asyncio.create_task(lab.push(SHOP, wait=5))
    await asyncio.gather(*(session.acknowledge(confirmed=True) for session in sessions.values()))
    await pushing
    return Fleet(lab, sessions)


async def test_a_plan_names_what_it_would_cut(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab, AsyncExitStack() as stack:
        fleet = await connect(stack, lab, {"web1": MASK, "db1": MASK})
        planning = asyncio.create_task(fleet.plan())
        request, draft = await fleet.sessions["web1"].draft()
        assert (draft.host, draft.generation, request.limit) == ("web1", 2, NAMED_BY_HOST)
        [local] = [w for w in draft.workloads if w.name == "host"]
        assert [str(p) for e in local.egress for p in e.ports] == ["tcp/8080"]
        cut = [connection(5433), connection(), connection(5432, "192.0.2.1")]
        reply = agent_pb2.ImpactReply(id=request.id, live=90, cut=70, connections=cut)
        await fleet.sessions["web1"].send(impact=reply)
        await fleet.answer("db1", live=2, cut=1, connections=[connection(ingress=True, remote="10.0.0.1")])
        plan = await planning
        assert plan.digest == draft.policy_digest
        assert (plan.cut_total, list(plan.unasked)) == (71, [])
        assert [(c.host, c.peer_host, c.connection.service.low) for c in plan.cuts] == [
            ("db1", "web1", 5432),
            ("web1", "db1", 5432),
            ("web1", "", 5432),
            ("web1", "db1", 5433),
        ]
        assert plan.cuts[1].connection == connection()


async def test_only_hosts_whose_policy_changes_are_asked(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab, AsyncExitStack() as stack:
        fleet = await connect(stack, lab, {"web1": MASK, "db1": MASK})
        began = time.monotonic()
        same = await fleet.plan(SHOP)
        assert (same.cut_total, list(same.unasked), list(same.hosts)) == (0, [], [])
        broken = await fleet.plan(BROKEN_TEST.replace("allow: [pg]", "allow: [pg, tcp/1]", 1))
        assert any(f.severity == "error" for f in broken.findings)
        assert (list(broken.unasked), len(broken.hosts)) == ([], 2)
        assert time.monotonic() - began < SECONDS


async def test_an_agent_that_cannot_tell_is_not_asked_and_named(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab, AsyncExitStack() as stack:
        fleet = await connect(stack, lab, {"web1": 0, "db1": MASK})
        planning = asyncio.create_task(fleet.plan())
        await fleet.answer("db1", live=4)
        plan = await planning
        assert (plan.cut_total, list(plan.unasked)) == (0, ["web1"])
        pushing = asyncio.create_task(lab.push(CUT, wait=5))
        # The first thing it hears after the plan is the policy: it was never asked.
        assert (await fleet.sessions["web1"].receive()).WhichOneof("kind") == "policy"
        pushing.cancel()


async def test_facts_that_come_later_make_a_host_askable(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab, AsyncExitStack() as stack:
        fleet = await connect(stack, lab, {"web1": 0})
        facts = agent_pb2.Facts(addresses=[ip_address("10.0.0.1").packed], mark_mask=MASK)
        await fleet.sessions["web1"].send(facts=facts)

        async def told() -> bool:
            return (await lab.hosts())["web1"].mark_mask == MASK

        await eventually(told)
        planning = asyncio.create_task(fleet.plan())
        await fleet.answer("web1", live=1)
        assert list((await planning).unasked) == []


async def test_released_hosts_are_not_named_and_offline_ones_where_nobody_could_be_asked(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab, AsyncExitStack() as stack:
        fleet = await connect(stack, lab, {"web1": MASK})
        await fleet.sessions["web1"].send(in_force=agent_pb2.InForce(released="released by alice"))

        async def released() -> bool:
            return (await lab.hosts())["web1"].state == "released"

        await eventually(released)
        plan = await fleet.plan()
        assert (sorted(plan.hosts), list(plan.unasked)) == (["db1", "web1"], ["db1"])


async def test_offline_hosts_are_not_named_beside_one_that_answers(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab, AsyncExitStack() as stack:
        fleet = await connect(stack, lab, {"web1": MASK})
        planning = asyncio.create_task(fleet.plan())
        await fleet.answer("web1", live=1)
        assert list((await planning).unasked) == []


async def test_silence_ends_with_one_deadline_for_all_and_late_answers_count_nothing(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab, AsyncExitStack() as stack:
        fleet = await connect(stack, lab, {"web1": MASK, "db1": MASK})
        began = time.monotonic()
        planning = asyncio.create_task(fleet.plan())
        late, _ = await fleet.sessions["web1"].draft()
        await fleet.answer("db1", live=5, cut=2)
        first = await planning
        assert (first.cut_total, list(first.unasked)) == (2, ["web1"])
        assert SECONDS * 0.9 < time.monotonic() - began < SECONDS * 2.5
        second = asyncio.create_task(fleet.plan())
        request, _ = await fleet.sessions["web1"].draft()
        assert request.id != late.id
        await fleet.sessions["web1"].send(impact=agent_pb2.ImpactReply(id=late.id, live=9, cut=9))
        await fleet.sessions["web1"].send(impact=agent_pb2.ImpactReply(id=10_000, live=9, cut=9))
        await fleet.sessions["web1"].send(impact=agent_pb2.ImpactReply(id=request.id, live=9, cut=1))
        await fleet.answer("db1", live=5)
        assert (await second).cut_total == 1


async def test_an_agent_that_fails_or_lies_is_named_and_keeps_its_session(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab, AsyncExitStack() as stack:
        fleet = await connect(stack, lab, {"web1": MASK, "db1": MASK})
        planning = asyncio.create_task(fleet.plan())
        await fleet.answer("web1", error="no conntrack here")
        await fleet.answer("db1", live=1, cut=2)
        plan = await planning
        assert (plan.cut_total, list(plan.cuts), list(plan.unasked)) == (0, [], ["db1", "web1"])
        assert all(host.connected for host in (await lab.hosts()).values())


@pytest.mark.parametrize(
    "bad",
    [
        agent_pb2.ImpactReply(error="x" * 9000),
        agent_pb2.ImpactReply(live=1, cut=0, connections=[connection()]),
        agent_pb2.ImpactReply(live=2**60, cut=1),
        agent_pb2.ImpactReply(live=99, cut=99, connections=[connection()] * (NAMED_BY_HOST + 1)),
        *(
            agent_pb2.ImpactReply(live=1, cut=1, connections=[connection(**fields)])
            for fields in (
                {"remote": "::1", "workload": "w" * 129},
                {"rule": "r" * 129},
                {"local_port": 65536},
                {"remote_port": 2**31},
                {"service": hostpolicy_pb2.PortRange(protocol="tcp", low=1, high=2)},
                {"service": hostpolicy_pb2.PortRange(protocol="sctp", low=1, high=1)},
                {"process": agent_pb2.ProcessInfo(exe="x" * 5000)},
            )
        ),
        agent_pb2.ImpactReply(live=1, cut=1, connections=[agent_pb2.LiveConnection(remote=b"xyz")]),
    ],
)
def test_hostile_replies_are_refused(bad: agent_pb2.ImpactReply) -> None:
    with pytest.raises(WireError) as caught:
        check_reply(bad)
    assert len(str(caught.value)) < 1000


def test_a_large_draft_goes_in_parts() -> None:
    draft = bytes(range(256)) * (PART // 100)
    asked = [agent_pb2.ControllerMessage.FromString(m).impact for m in draft_messages(7, draft, 50)]
    assert b"".join(part.draft for part in asked) == draft
    assert [part.more for part in asked] == [True] * (len(asked) - 1) + [False]
    assert {(part.id, part.limit) for part in asked} == {(7, 50)}
    assert max(len(part.draft) for part in asked) == PART


async def test_a_draft_that_nobody_waits_for_is_not_sent() -> None:
    session = Session("web1", Origin(None, "boot", frozenset()), 10.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await session.impact(b"draft", 5)
    session.beat()
    assert await session.next_messages() == [HEARTBEAT]


async def test_open_questions_of_one_host_are_bounded() -> None:
    session = Session("web1", Origin(None, "boot", frozenset()), 10.0)
    waiting = [asyncio.create_task(session.impact(b"draft", 5)) for _ in range(MOST_IMPACTS)]
    await asyncio.sleep(0)
    with pytest.raises(LimitError, match="host web1 has 4 open questions"):
        await session.impact(b"draft", 5)
    assert len(await session.next_messages()) == MOST_IMPACTS
    for task in waiting:
        task.cancel()
