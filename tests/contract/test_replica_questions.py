"""What a host's kernel says, asked of a controller that the host is not connected to."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from segctl.proto.v1 import admin_pb2, agent_pb2
from segctl_controller.errors import LimitError, PreconditionError
from segctl_controller.impact import SECONDS
from segctl_controller.replicas import relay
from segctl_controller.replicas.relay import Relay
from segctl_controller.store.conninfo import Conninfo
from segctl_controller.store.shared import QuestionRecord

from tests.controller_harness import ControllerLab, FakeSession, eventually
from tests.replica_harness import kill, replicas
from tests.unit.segctl_controller.policies import SHOP
from tests.unit.segctl_controller.test_impact import CUT, HOSTS, MASK, connection, source

DETAIL = {"web1": "10.0.0.2: allowed (out host tcp)", "db1": "10.0.0.1: allowed (in host tcp)"}


@dataclass(slots=True)
class Fleet:
    """web1 is connected to `one`, db1 to `two`."""

    one: ControllerLab
    two: ControllerLab
    sessions: dict[str, FakeSession] = field(default_factory=dict)
    relays: tuple[Relay, ...] = ()

    def __post_init__(self) -> None:
        self.relays = (relay_of(self.one), relay_of(self.two))

    async def explain(self, lab: ControllerLab) -> dict[str, str]:
        """What each host's kernel says."""
        request = admin_pb2.ExplainRequest(source="web1", destination="db1", service="tcp/5432", live=True)
        return {end.host: end.kernel_detail for end in (await lab.admin().Explain(request)).ends}

    async def plan(self, lab: ControllerLab) -> admin_pb2.PlanReply:
        return await lab.admin().Plan(source(CUT))

    async def answer(self, host: str, **reply: Any) -> None:
        request, _ = await self.sessions[host].draft()
        await self.sessions[host].send(impact=agent_pb2.ImpactReply(**{"id": request.id, **reply}))

    async def nothing_is_left(self) -> None:
        async def empty() -> bool:
            shared = self.one.controller.db.store.shared()
            assert shared is not None
            return not any(shared.questions(relay._own, 0) for relay in self.relays)

        await eventually(empty)
        assert [(relay._open, relay._bytes) for relay in self.relays] == [({}, 0)] * 2


def relay_of(lab: ControllerLab) -> Relay:
    peers = lab.controller.replica.peers
    assert peers is not None
    return peers._relay


@asynccontextmanager
async def fleet(base: Path, where: Conninfo, mask: int = MASK) -> AsyncIterator[Fleet]:
    async with replicas(base, where) as (one, two), AsyncExitStack() as stack:
        f = Fleet(one, two)
        for lab, (name, (tags, address)) in zip((one, two), HOSTS.items(), strict=True):
            agent = await lab.enrol(name, tags)
            f.sessions[name] = await stack.enter_async_context(agent.session([address], mark_mask=mask))
            await f.sessions[name].receive()

        async def known() -> bool:
            found = [*(await one.hosts()).values(), *(await two.hosts()).values()]
            return all(h.connected for h in found) and one.controller.replica.peers.serving == 2  # type: ignore[union-attr]

        await eventually(known)
        pushing = asyncio.create_task(one.push(SHOP, wait=5))
        await asyncio.gather(*(session.acknowledge(confirmed=True) for session in f.sessions.values()))
        assert not (await pushing)[-1].done.undone

        async def in_sync() -> bool:
            found = [*(await one.hosts()).values(), *(await two.hosts()).values()]
            return all(h.state == "in-sync" for h in found)

        await eventually(in_sync)
        yield f


async def test_either_tells_what_the_kernels_of_both_say(tmp_path: Path, postgres: Conninfo) -> None:
    async with fleet(tmp_path, postgres) as f, AsyncExitStack() as stack:
        for session in f.sessions.values():
            await stack.enter_async_context(session.proving())
        for lab in (f.one, f.two):
            assert await f.explain(lab) == DETAIL
        every = await asyncio.gather(*(f.explain(lab) for lab in (f.one, f.two) * 20))
        assert all(told == DETAIL for told in every)
        await f.nothing_is_left()


async def test_a_plan_names_what_it_would_cut_at_hosts_of_both(tmp_path: Path, postgres: Conninfo) -> None:
    async with fleet(tmp_path, postgres) as f:
        for lab in (f.one, f.two):
            planning = asyncio.create_task(f.plan(lab))
            await f.answer("web1", live=90, cut=70, connections=[connection()])
            await f.answer("db1", live=2, cut=1, connections=[connection(ingress=True, remote="10.0.0.1")])
            plan = await planning
            assert (plan.cut_total, list(plan.unasked)) == (71, [])
            assert [(c.host, c.peer_host) for c in plan.cuts] == [("db1", "web1"), ("web1", "db1")]
        await f.nothing_is_left()


async def test_a_large_draft_arrives_whole(tmp_path: Path, postgres: Conninfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "LARGE", 10)
    async with fleet(tmp_path, postgres) as f:
        planning = asyncio.create_task(f.plan(f.one))
        request, draft = await f.sessions["db1"].draft()
        assert (draft.host, draft.generation) == ("db1", 2)
        await f.sessions["db1"].send(impact=agent_pb2.ImpactReply(id=request.id, live=1))
        await f.answer("web1", live=1)
        plan = await planning
        assert (plan.digest, list(plan.unasked)) == (draft.policy_digest, [])


async def test_an_agent_elsewhere_that_is_silent_lies_or_cannot_tell_is_named(
    tmp_path: Path, postgres: Conninfo
) -> None:
    async with fleet(tmp_path, postgres) as f:
        began = time.monotonic()
        planning = asyncio.create_task(f.plan(f.one))
        await f.answer("web1", live=5, cut=2)
        plan = await planning
        assert (plan.cut_total, list(plan.unasked)) == (2, ["db1"])
        assert time.monotonic() - began < SECONDS + 1
        planning = asyncio.create_task(f.plan(f.one))
        await f.answer("web1", live=5)
        await f.sessions["db1"].draft()  # of the plan before: it is not asked any more
        await f.answer("db1", live=1, cut=2)
        assert list((await planning).unasked) == ["db1"]
        detail = (await f.explain(f.one))["db1"]
        assert detail == "10.0.0.1: no answer within 2.3 seconds"
        await f.nothing_is_left()


async def test_an_old_agent_elsewhere_is_not_asked(tmp_path: Path, postgres: Conninfo) -> None:
    async with fleet(tmp_path, postgres, mask=0) as f:
        plan = await f.plan(f.one)
        assert list(plan.unasked) == ["db1", "web1"]


async def test_a_controller_that_died_is_named(tmp_path: Path, postgres: Conninfo) -> None:
    async with fleet(tmp_path, postgres) as f:
        await kill(f.two)
        began = time.monotonic()
        detail = (await f.explain(f.one))["db1"]
        assert time.monotonic() - began < SECONDS + 1
        assert detail.startswith("10.0.0.1: the host is connected to 127.0.0.1:"), detail
        assert detail.endswith(", which does not answer"), detail

        async def offline() -> bool:
            return (await f.explain(f.one))["db1"] == "not asked: its agent is not connected"

        await eventually(offline)
        await f.nothing_is_left()


async def test_a_host_that_just_left_and_questions_that_cannot_be_read(tmp_path: Path, postgres: Conninfo) -> None:
    async with fleet(tmp_path, postgres) as f:
        asking, target = relay_of(f.one), relay_of(f.two)._own
        for host, kind, body, why in (
            ("web1", "probe", b"", "has just left the controller"),
            ("nobody", "probe", b"", "has just left the controller"),
            ("db1", "probe", b"\xff\xff", "cannot be read"),
            ("db1", "impact", b"no zlib", "cannot be read"),
            ("db1", "impact", zlib.compress(bytes(relay.LONGEST_DRAFT + 1)), "more than 67,108,864 bytes"),
            ("db1", "impact", zlib.compress(b"half of it")[:8], "it is cut"),
            ("db1", "else", b"", "cannot answer that"),
        ):
            with pytest.raises(PreconditionError, match=why):
                await asking.ask(host, target, "there", kind, body)
        await f.nothing_is_left()


async def test_open_questions_are_bounded_and_late_answers_count_nothing(
    tmp_path: Path, postgres: Conninfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MOST_OPEN", 1)
    monkeypatch.setattr(relay, "ASKING_SECONDS", 0.5)
    async with fleet(tmp_path, postgres) as f:
        asking, target = relay_of(f.one), relay_of(f.two)._own
        probe = agent_pb2.ProbeRequest(workload="host").SerializeToString()
        first = asyncio.create_task(asking.ask("db1", target, "ctl2:1", "probe", probe))
        asked = await f.sessions["db1"].receive()
        with pytest.raises(LimitError, match="too much is asked"):
            await asking.ask("db1", target, "ctl2:1", "probe", probe)
        with pytest.raises(PreconditionError, match="connected to ctl2:1, which does not answer"):
            await first
        await f.sessions["db1"].send(probe=agent_pb2.ProbeReply(id=asked.probe.id, verdict="denied"))
        monkeypatch.setattr(relay, "MOST_BYTES", len(probe) - 1)
        with pytest.raises(LimitError, match="too much is asked"):
            await asking.ask("db1", target, "ctl2:1", "probe", probe)
        await f.nothing_is_left()
        shared = f.one.controller.db.store.shared()
        assert shared is not None
        assert shared.answers(asking._own) == ()


async def test_what_is_left_of_a_caller_who_hung_up_is_forgotten(tmp_path: Path, postgres: Conninfo) -> None:
    async with fleet(tmp_path, postgres) as f:
        asking, target = relay_of(f.one), relay_of(f.two)._own
        probe = agent_pb2.ProbeRequest(workload="host").SerializeToString()
        first = asyncio.create_task(asking.ask("db1", target, "ctl2:1", "probe", probe))
        await f.sessions["db1"].receive()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await f.nothing_is_left()


def test_a_question_does_not_show_its_body_in_a_log() -> None:
    assert "secret" not in repr(QuestionRecord("a", 1, "b", "h", "impact", b"secret"))
