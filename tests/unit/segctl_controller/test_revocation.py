"""Who loses their right loses their live streams, idle ones too, and the next connection is refused in words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from segctl.proto.v1 import admin_pb2, agent_pb2, agent_pb2_grpc
from segctl_controller.errors import UnauthenticatedError
from segctl_controller.gate import Passage
from segctl_controller.limits import Limit
from segctl_controller.principal import Principal
from segctl_controller.revocation import RECHECK, Revocations
from segctl_controller.setup import open_store, remove_operator, renew_operator
from segctl_controller.store.records import Role

from tests.controller_harness import ControllerLab, FakeAgent, running_controller

AT_ONCE = 1.0
POLICY = """
version: 1
tags: {role: [web]}
modes:
  - {select: {role: web}, mode: observe}
rules: []
"""


async def ending(call: Any, seconds: float = AT_ONCE) -> tuple[grpc.StatusCode, str]:
    with suppress(grpc.aio.AioRpcError):
        async with asyncio.timeout(seconds):
            while await call.read() is not grpc.aio.EOF:
                pass
    return await call.code(), await call.details()


async def idle_report(agent: FakeAgent) -> Any:
    """A report stream on which one report was acknowledged, and that says nothing since."""
    stub: Any = agent_pb2_grpc.AgentStub(agent.lab.channel(agent.identity))
    call = stub.Report()
    await call.write(agent_pb2.ReportBatch(epoch="e", sequence=1))
    assert (await call.read()).sequence == 1
    return call


async def refused(agent: FakeAgent) -> tuple[grpc.StatusCode, str]:
    async with agent.session() as session:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await session.receive()
    return caught.value.code(), caught.value.details() or ""


async def test_removing_a_host_ends_its_idle_streams(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        gone, stays = await lab.enrol("web1", {}), await lab.enrol("web2", {})
        reports, others = await idle_report(gone), await idle_report(stays)
        async with gone.session() as session:
            await session.receive()
            await lab.admin().RemoveHost(admin_pb2.RemoveHostRequest(host="web1"))
            with pytest.raises(grpc.aio.AioRpcError, match="removed from the fleet"):
                async with asyncio.timeout(AT_ONCE):
                    await session.receive()
        code, why = await ending(reports)
        assert (code, why) == (grpc.StatusCode.UNAUTHENTICATED, "host 'web1' was removed from the fleet")
        code, why = await refused(gone)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "is not enrolled, or was removed; to bring it back, enrol it with a new token" in why
        await others.write(agent_pb2.ReportBatch(epoch="e", sequence=2))
        assert (await others.read()).sequence == 2


async def test_enrolling_a_host_anew_ends_the_streams_of_the_old_one(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        old = await lab.enrol("web1", {})
        reports = await idle_report(old)
        async with old.session() as session:
            await session.receive()
            new = await lab.enrol("web1", {}, host="web1", replace=True)
            with pytest.raises(grpc.aio.AioRpcError, match="enrolled anew"):
                async with asyncio.timeout(AT_ONCE):
                    await session.receive()
        assert (await ending(reports))[0] is grpc.StatusCode.UNAUTHENTICATED
        code, why = await refused(old)
        assert code is grpc.StatusCode.UNAUTHENTICATED and "replaced by a later enrolment" in why
        await idle_report(new)


async def test_reports_of_a_certificate_that_was_renewed_are_refused(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        old = await lab.enrol("web1", {})
        reports = await idle_report(old)
        new = await old.renewed()
        await idle_report(new)
        await reports.write(agent_pb2.ReportBatch(epoch="e", sequence=2))
        assert (await ending(reports))[0] is grpc.StatusCode.UNAUTHENTICATED


def take_away(lab: ControllerLab, name: str) -> None:
    """What `segctl-controller admin remove` does, in its own process."""
    store = open_store(lab.state)
    try:
        remove_operator(store, name, lab.controller.clock)
    finally:
        store.close()


async def test_removing_an_operator_ends_what_it_follows(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        lab.operator("eve", Role.EDITOR)
        await lab.enrol("web1", {"role": "web"})
        eve = lab.admin("eve")
        following = eve.Denied(admin_pb2.DeniedRequest(follow=True))
        await following.initial_metadata()
        source = admin_pb2.PolicySource(files=[admin_pb2.SourceFile(name="p.yaml", content=POLICY.encode())])
        agent = await lab.enrol("web2", {"role": "web"})
        async with agent.session() as session, session.proving():
            rollout = admin_pb2.Rollout(watch_seconds=30)
            pushing = eve.Push(admin_pb2.PushRequest(source=source, wait_seconds=1, rollout=rollout))
            assert (await pushing.read()).HasField("stored")
            await asyncio.to_thread(take_away, lab, "eve")
            for call in (following, pushing):
                code, why = await ending(call, RECHECK + 2 * AT_ONCE)
                assert code is grpc.StatusCode.UNAUTHENTICATED
                assert "'eve' was removed" in why
            with pytest.raises(grpc.aio.AioRpcError, match="'eve' was removed"):
                await eve.WhoAmI(admin_pb2.WhoAmIRequest())
            assert (await lab.admin().Status(admin_pb2.StatusRequest())).HasField("trial")  # the push itself goes on


async def test_new_credentials_of_an_operator_end_what_the_old_ones_follow(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        following = lab.admin().Denied(admin_pb2.DeniedRequest(follow=True))
        await following.initial_metadata()
        store = open_store(lab.state)
        renew_operator(lab.state, store, "root", tmp_path / "new", lab.controller.clock)
        store.close()
        code, why = await ending(following, RECHECK + 2 * AT_ONCE)
        assert code is grpc.StatusCode.UNAUTHENTICATED and "has a newer certificate" in why


async def test_only_the_streams_of_that_host_end_and_what_a_stream_raises_is_raised() -> None:
    revocations = Revocations()
    ended = []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async def fails() -> None:
        raise ValueError("of its own")

    tasks = [asyncio.create_task(revocations.bound(name, work(name))) for name in ("a", "a", "b")]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    revocations.revoke("a", UnauthenticatedError("enough"))
    for task in tasks[:2]:
        with pytest.raises(UnauthenticatedError, match="enough"):
            await task
    assert ended == ["a", "a"] and not tasks[2].done()
    tasks[2].cancel()
    await asyncio.gather(tasks[2], return_exceptions=True)
    assert ended == ["a", "a", "b"]
    with pytest.raises(ValueError, match="of its own"):
        await revocations.bound("b", fails())
    revocations.revoke("b", UnauthenticatedError("nobody there"))


async def test_a_flood_does_not_outrun_the_look_at_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segctl_controller.gate.RECHECK", 0.05)
    asked = 0

    class Asked:
        """Of a gate, what a stream needs. The third look finds the rights gone."""

        async def admit(self, _context: object, _need: Role) -> Principal:
            nonlocal asked
            asked += 1
            if asked == 3:
                raise UnauthenticatedError("no more")
            return Principal("ann", Role.VIEWER, "certificate 1", "::1")

        async def pace(self, _who: Principal) -> Limit:
            return Limit(1, streams=1)

        def began(self, _passage: Passage) -> None: ...

    def passage() -> Passage:
        return Passage(Asked(), None, Role.VIEWER)  # type: ignore[arg-type]

    async def flood() -> AsyncIterator[int]:
        while True:
            yield 1
            await asyncio.sleep(0)

    drowned = passage()
    await drowned.__aenter__()
    with pytest.raises(UnauthenticatedError, match="no more"):
        async with asyncio.timeout(5):
            async for _ in drowned.each(flood()):
                pass

    async def three() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    asked = 100
    calm = passage()
    await calm.__aenter__()
    assert [number async for number in calm.each(three())] == [0, 1, 2]
