"""A push as a transaction: staged, tried, watched; confirmed on every host or undone on every host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from segctl.errors import StateError
from segctl.model.hostpolicy import HostPolicy
from segctl.policy.digest import host_policy_digest
from segctl.proto.v1 import admin_pb2, agent_pb2
from segctl_controller.store.sql import SqlStore

from tests.controller_harness import SECONDS, ControllerLab, FakeAgent, FakeSession, eventually, running_controller
from tests.unit.segctl_controller.policies import SHOP, WIDER

HOSTS = {"db1": "db", "web1": "web", "web2": "web"}
MOVED = SHOP.replace("to: {role: db}", "to: {role: web}").replace("allow: [pg]", "allow: [tcp/8080]")


@dataclass
class Fleet:
    """Three hosts whose agents prove what they are told, and what each was told to enforce."""

    lab: ControllerLab
    sessions: dict[str, FakeSession]
    told: Mapping[str, list[HostPolicy]]

    def numbers(self, host: str) -> list[int]:
        return [p.generation for p in self.told[host]]

    async def states(self) -> dict[str, tuple[str, int]]:
        return {n: (h.state, h.kernel_generation) for n, h in (await self.lab.hosts()).items()}


@asynccontextmanager
async def fleet(base: Path, heartbeat: int = 10, proving: tuple[str, ...] = tuple(HOSTS)) -> AsyncIterator[Fleet]:
    async with running_controller(base, heartbeat=heartbeat) as lab, AsyncExitStack() as stack:
        sessions, told = {}, {}
        for number, (name, role) in enumerate(HOSTS.items(), 1):
            agent = await lab.enrol(name, {"role": role})
            sessions[name] = await stack.enter_async_context(agent.session([f"10.0.0.{number}"]))
            await sessions[name].receive()
            if name in proving:
                told[name] = await stack.enter_async_context(sessions[name].proving())
        yield Fleet(lab, sessions, told)


def way(**fields: Any) -> admin_pb2.Rollout:
    return admin_pb2.Rollout(**{"watch_seconds": 0, **fields})


def phases(progress: list[Any]) -> list[str]:
    return [p.phase.name for p in progress if p.WhichOneof("kind") == "phase"]


def proofs(progress: list[Any]) -> list[tuple[str, str]]:
    return [(p.host.host, p.host.state) for p in progress if p.WhichOneof("kind") == "host"]


async def test_staged_everywhere_before_it_is_in_force_anywhere(tmp_path: Path) -> None:
    async with fleet(tmp_path) as f:
        progress = await f.lab.push(SHOP, wait=10)
        assert phases(progress) == ["staging", "activating", "confirming"]
        told = proofs(progress)
        assert told[:3] == [(h, "staged") for h in HOSTS]
        assert sorted(told[3:]) == [(h, "proven") for h in HOSTS]
        done = progress[-1].done
        assert (done.undone, done.proven) == (False, 3)
        [newest] = (await f.lab.admin().History(admin_pb2.HistoryRequest(limit=1))).generations
        assert (newest.state, newest.active) == ("confirmed", True)
        assert await f.states() == dict.fromkeys(HOSTS, ("in-sync", 1))


async def test_one_host_that_could_not_take_it_keeps_it_from_all(tmp_path: Path) -> None:
    async with fleet(tmp_path) as f:
        await f.lab.push(SHOP, wait=10)
        f.sessions["db1"].unready = "add 9 elements to set w0_in4: the set is full"
        progress = await f.lab.push(WIDER, wait=10)
        done = progress[-1].done
        assert done.undone
        assert done.why.startswith("db1 refused it: add 9 elements")
        assert phases(progress) == ["staging", "undoing"]
        assert all(f.numbers(h) == [1] for h in HOSTS)  # nobody ever enforced it
        assert await f.states() == dict.fromkeys(HOSTS, ("in-sync", 1))
        reply = await f.lab.admin().History(admin_pb2.HistoryRequest(limit=5))
        assert [(g.number, g.state, g.active) for g in reply.generations] == [
            (2, "undone", False),
            (1, "confirmed", True),
        ]
        assert reply.generations[0].why == done.why
        [last, *_] = (await f.lab.admin().Audit(admin_pb2.AuditRequest())).entries
        assert (last.action, last.subject) == ("undo", "generation 2")


async def test_one_host_that_refuses_it_brings_all_back(tmp_path: Path) -> None:
    async with fleet(tmp_path, proving=("web1", "web2")) as f:
        db = f.sessions["db1"]

        async def refuse_the_second() -> None:
            await db.acknowledge(confirmed=True)
            await db.refuse(await db.policy(), "no memory")
            await db.acknowledge()

        refusing = asyncio.create_task(refuse_the_second())
        await f.lab.push(SHOP, wait=10)
        progress = await f.lab.push(WIDER, wait=10)
        await refusing
        assert progress[-1].done.why == "db1 refused it: no memory"
        assert sorted(proofs(progress)[-3:]) == [(h, "returned") for h in HOSTS]
        assert all(f.numbers(h) == [1, 2, 1] for h in ("web1", "web2"))
        assert await f.states() == dict.fromkeys(HOSTS, ("in-sync", 1))
        third = await f.lab.push(WIDER, wait=1)
        assert third[0].stored.number == 3  # the number of what was undone is not used again


async def test_an_agent_that_takes_it_back_brings_all_back(tmp_path: Path) -> None:
    async with fleet(tmp_path) as f:
        await f.lab.push(SHOP, wait=10)
        async with f.lab.pushing(WIDER, rollout=way(watch_seconds=60)) as pushing:
            await eventually(lambda: watching(f.lab))
            ended = agent_pb2.TrialEnded(generation=2, reason="tcp/5432 from 10.0.0.2 passed before, and is denied")
            await f.sessions["web1"].send(trial_ended=ended)
            progress = await pushing
        assert "web1 took it back: tcp/5432 from 10.0.0.2 passed before" in progress[-1].done.why
        assert await f.states() == dict.fromkeys(HOSTS, ("in-sync", 1))


async def watching(lab: ControllerLab) -> bool:
    return (await lab.admin().Status(admin_pb2.StatusRequest())).trial.phase.name == "watching"


async def test_what_an_agent_took_back_before_counts_nothing(tmp_path: Path) -> None:
    async with fleet(tmp_path) as f:
        await f.sessions["web1"].send(trial_ended=agent_pb2.TrialEnded(generation=7, reason="long ago"))
        assert not (await f.lab.push(SHOP, wait=10))[-1].done.undone


async def test_a_host_that_does_not_come_back_brings_all_back(tmp_path: Path) -> None:
    async with fleet(tmp_path, proving=("web1", "web2")) as f:
        pushing = asyncio.create_task(f.lab.push(SHOP, wait=2))
        await f.sessions["db1"].policy()
        f.sessions["db1"].call.cancel()
        progress = await pushing
        why = progress[-1].done.why
        assert why == "db1 was not proven within 2 s; after the change it did not come back to the controller"


async def test_the_first_generation_is_taken_back_to_nothing(tmp_path: Path) -> None:
    async with fleet(tmp_path, proving=("web1", "web2")) as f:
        pushing = asyncio.create_task(f.lab.push(SHOP, wait=2))
        db = f.sessions["db1"]
        policy = await db.policy()
        await db.refuse(policy, "no memory")
        while (message := await db.receive()).WhichOneof("kind") != "take_back":
            pass
        assert message.take_back.digest == host_policy_digest(policy)
        assert (await pushing)[-1].done.undone
        assert not (await f.lab.admin().Status(admin_pb2.StatusRequest())).HasField("active")


async def test_hosts_that_are_offline_or_have_no_say_take_it_when_it_is_confirmed(tmp_path: Path) -> None:
    async with fleet(tmp_path) as f:
        away = await f.lab.enrol("away", {"role": "web"})
        progress = await f.lab.push(SHOP, wait=10, rollout=way(without=["db1"]))
        told = proofs(progress)
        assert told.count(("db1", "staged")) == 0
        assert ("db1", "proven") in told
        assert ("away", "offline") in told
        assert (progress[-1].done.proven, progress[-1].done.waiting) == (3, 0)
        async with away.session(["10.0.0.9"]) as session:
            assert (await session.acknowledge()).generation == 1


async def test_a_host_that_connects_meanwhile_holds_what_is_confirmed(tmp_path: Path) -> None:
    async with fleet(tmp_path) as f:
        await f.lab.push(SHOP, wait=10)
        late = await f.lab.enrol("late", {"role": "web"})
        async with f.lab.pushing(WIDER, rollout=way(watch_seconds=60)) as pushing:
            await eventually(lambda: watching(f.lab))
            async with late.session(["10.0.0.9"]) as session:
                assert (await session.acknowledge()).generation == 1
                await f.lab.admin().Rollback(admin_pb2.RollbackRequest()).read()
                await pushing


async def test_a_host_that_restarts_on_trial_is_given_it_again(tmp_path: Path) -> None:
    async with fleet(tmp_path, proving=("web1", "web2")) as f:
        db = f.sessions["db1"]
        pushing = asyncio.create_task(f.lab.push(SHOP, wait=10))
        await db.policy()
        db.call.cancel()
        async with db.agent.session(["10.0.0.1"]) as again:
            await again.receive()
            assert (await again.acknowledge(confirmed=True)).generation == 1
            assert not (await pushing)[-1].done.undone


async def test_canaries_first_then_waves(tmp_path: Path) -> None:
    async with fleet(tmp_path) as f:
        await f.lab.push(SHOP, wait=10)
        rollout = way(canary={"role": "db"}, waves=2, watch_seconds=1)
        progress = await f.lab.push(WIDER, wait=10, rollout=rollout)
        waves = [(p.phase.name, p.phase.wave, p.phase.waves) for p in progress if p.WhichOneof("kind") == "phase"]
        assert waves[1:-1] == [(n, w, 3) for w in (1, 2, 3) for n in ("activating", "watching")]
        assert [h for h, s in proofs(progress) if s == "proven"] == ["db1", "web1", "web2"]


async def test_a_canary_that_fails_spares_the_others(tmp_path: Path) -> None:
    async with fleet(tmp_path) as f:
        await f.lab.push(SHOP, wait=10)
        async with f.lab.pushing(WIDER, rollout=way(canary={"role": "db"}, watch_seconds=60)) as pushing:
            await eventually(lambda: watching(f.lab))
            await f.sessions["db1"].send(trial_ended=agent_pb2.TrialEnded(generation=2, reason="it broke"))
            await pushing
        assert f.numbers("db1") == [1, 2, 1]
        assert f.numbers("web1") == f.numbers("web2") == [1]


@pytest.mark.parametrize(
    ("rollout", "text"),
    [
        (way(canary={"role": "bastion"}), "no connected host has the tags of the canary (role=bastion)"),
        (way(without=["nobody"]), "no host 'nobody' is enrolled"),
        (way(waves=101), "at most 100 waves"),
        (way(watch_seconds=90_000), "watch_seconds or pause_seconds is over 86400"),
    ],
)
async def test_a_way_that_cannot_be_gone_stores_nothing(tmp_path: Path, rollout: admin_pb2.Rollout, text: str) -> None:
    async with fleet(tmp_path) as f:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await f.lab.push(SHOP, wait=10, rollout=rollout)
        assert text in (refused.value.details() or "")
        assert not (await f.lab.admin().History(admin_pb2.HistoryRequest())).generations


async def test_a_permission_that_moves_is_on_all_hosts_before_it_goes_from_any(tmp_path: Path) -> None:
    async with fleet(tmp_path) as f:
        await f.lab.push(SHOP, wait=10)
        progress = await f.lab.push(MOVED, wait=10)
        assert phases(progress) == ["staging", "widening", "activating", "confirming"]
        before, wide, after = f.told["web1"]

        def egress(policy: HostPolicy) -> set[str]:
            return {str(p) for w in policy.workloads for e in w.egress for p in e.ports}

        assert egress(wide) == egress(before) | egress(after)
        assert egress(before) and egress(after) and not egress(before) & egress(after)


async def test_one_push_at_a_time_and_a_rollback_ends_it(tmp_path: Path) -> None:
    async with fleet(tmp_path) as f:
        await f.lab.push(SHOP, wait=10)
        async with f.lab.pushing(WIDER, rollout=way(watch_seconds=60)) as pushing:
            await eventually(lambda: watching(f.lab))
            status = await f.lab.admin().Status(admin_pb2.StatusRequest())
            assert (status.active.number, status.trial.generation.number, status.trial.proven) == (1, 2, 3)
            with pytest.raises(grpc.aio.AioRpcError, match="generation 2 is on trial"):
                await f.lab.push(SHOP, wait=10)
            ending = [p async for p in f.lab.admin().Rollback(admin_pb2.RollbackRequest())]
            assert ending == await pushing
        assert ending[-1].done.why == "root ended it"
        assert await f.states() == dict.fromkeys(HOSTS, ("in-sync", 1))


async def test_nobody_watches_and_it_is_confirmed(tmp_path: Path) -> None:
    async with fleet(tmp_path) as f:
        source = admin_pb2.PolicySource(files=[admin_pb2.SourceFile(name="p.yaml", content=SHOP.encode())])
        call = f.lab.admin().Push(admin_pb2.PushRequest(source=source, rollout=way(watch_seconds=1)))
        assert (await call.read()).stored.number == 1
        call.cancel()

        async def confirmed() -> bool:
            return (await f.lab.admin().Status(admin_pb2.StatusRequest())).active.number == 1

        await eventually(confirmed)


async def test_a_controller_that_ends_on_the_way_comes_back_with_the_generation_before(tmp_path: Path) -> None:
    async with fleet(tmp_path) as f:
        await f.lab.push(SHOP, wait=10)
        pushing = asyncio.create_task(f.lab.push(WIDER, wait=10, rollout=way(watch_seconds=60)))
        await eventually(lambda: watching(f.lab))
    await asyncio.gather(pushing, return_exceptions=True)
    async with running_controller(tmp_path) as lab:
        reply = await lab.admin().History(admin_pb2.HistoryRequest(limit=5))
        assert [(g.number, g.state) for g in reply.generations] == [(2, "undone"), (1, "confirmed")]
        assert reply.generations[0].why == "the controller ended while it was on trial"
        assert lab.controller.fleet.active.number == 1


async def test_the_next_number_is_above_what_any_host_holds(tmp_path: Path) -> None:
    """After a restore from an old copy of the database."""
    async with fleet(tmp_path) as f:
        f.lab.controller.fleet.standing("db1").holds = 17
        f.lab.controller.fleet.standing("web1").holds = 2**40  # a lie
        [problem] = [p for p in (await f.lab.hosts())["db1"].problems if "holds generation 17" in p]
        assert "newer than this controller's 0" in problem
        f.lab.controller.fleet.standing("db1").ended = (19, "of a trial that this database does not know")
        assert (await f.lab.push(SHOP, wait=10))[0].stored.number == 20


async def test_a_commit_that_is_durable_though_it_failed_counts(tmp_path: Path) -> None:
    async with fleet(tmp_path) as f:
        store = f.lab.controller.db.store
        settle = store.settle

        def fails_afterwards(*args: Any) -> Any:
            store.settle = settle  # type: ignore[method-assign]
            settle(*args)
            raise StateError("disk I/O error")

        store.settle = fails_afterwards  # type: ignore[method-assign]
        progress = await f.lab.push(SHOP, wait=10)
        assert not progress[-1].done.undone
        assert f.lab.controller.fleet.active.number == 1
        assert await f.states() == dict.fromkeys(HOSTS, ("in-sync", 1))


async def test_a_host_of_an_old_session_cannot_spoil_a_push(tmp_path: Path) -> None:
    async with fleet(tmp_path) as f:
        old = f.sessions["web1"]
        async with old.agent.session(["10.0.0.2"]) as newer:
            await newer.receive()
            async with newer.proving(), asyncio.timeout(SECONDS):
                assert not (await f.lab.push(SHOP, wait=10))[-1].done.undone


# What went wrong once


async def test_a_host_that_comes_back_on_trial_of_a_first_generation_that_is_undone_takes_it_back(
    tmp_path: Path,
) -> None:
    """It hears heartbeats again, so it would not return by itself; also after the controller died and started anew."""
    async with fleet(tmp_path, proving=("web1", "web2")) as f:
        pushing = asyncio.create_task(f.lab.push(SHOP, wait=1))
        policy = await f.sessions["db1"].policy()
        f.sessions["db1"].call.cancel()
        assert (await pushing)[-1].done.undone
        said = {"generation": 1, "digest": host_policy_digest(policy)}
        async with f.sessions["db1"].agent.session(["10.0.0.1"], said=said) as again:
            await again.receive()
            back = (await again.receive()).take_back
            assert (back.generation, back.digest) == (1, host_policy_digest(policy))
            assert "did not come back" in back.reason
    async with running_controller(tmp_path) as lab:
        agent = FakeAgent(lab, "db1", f.sessions["db1"].agent.identity)
        async with agent.session(["10.0.0.1"], said=said) as again:
            await again.receive()
            assert (await again.receive()).take_back.digest == host_policy_digest(policy)


async def test_a_host_that_took_it_back_just_before_it_was_confirmed_is_sent_it_again(tmp_path: Path) -> None:
    async with fleet(tmp_path) as f:
        await f.lab.push(SHOP, wait=10)
        ended = agent_pb2.TrialEnded(generation=1, reason="nothing was heard from the controller for 30 s")
        await f.sessions["db1"].send(trial_ended=ended)

        async def again() -> bool:
            return f.numbers("db1") == [1, 1] and (await f.states())["db1"] == ("in-sync", 1)

        await eventually(again)


@pytest.mark.parametrize("watch", [0, 1])
async def test_a_canary_that_goes_away_in_the_pause_spares_the_others(tmp_path: Path, watch: int) -> None:
    async with fleet(tmp_path) as f:
        await f.lab.push(SHOP, wait=10)
        rollout = way(canary={"role": "db"}, pause_seconds=2, watch_seconds=watch)
        async with f.lab.pushing(WIDER, wait=1, rollout=rollout) as pushing:
            await eventually(lambda: pausing(f.lab))
            f.sessions["db1"].call.cancel()
            progress = await pushing
        assert progress[-1].done.why.startswith("db1 was not proven within 1 s; after the change it did not come back")
        assert f.numbers("web1") == [1]


async def pausing(lab: ControllerLab) -> bool:
    return (await lab.admin().Status(admin_pb2.StatusRequest())).trial.phase.name == "pausing"


async def test_a_machine_that_takes_the_name_of_one_on_trial_takes_no_part(tmp_path: Path) -> None:
    async with fleet(tmp_path) as f:
        await f.lab.push(SHOP, wait=10)
        async with f.lab.pushing(WIDER, wait=2, rollout=way(watch_seconds=2)) as pushing:
            await eventually(lambda: watching(f.lab))
            other = await f.lab.enrol("db1", {"role": "web"}, host="db1", replace=True)
            async with other.session(["10.0.0.1"]) as session:
                await session.receive()
                assert {w.name for w in (await session.acknowledge()).workloads} == {"host"}
                assert not (await pushing)[-1].done.undone
                assert (await session.policy()).generation == 2


async def test_what_is_compiled_while_a_generation_is_confirmed_does_not_bring_the_one_before_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segctl_controller.compilation.PACE", 0)
    async with fleet(tmp_path) as f:
        await f.lab.push(SHOP, wait=10)
        controlled = f.lab.controller.fleet
        made = controlled._compilation(controlled.active)
        await made.settle()
        controlled._made = made
        begun = controlled._demand(made, controlled.desired, HOSTS)
        begun.send(None)  # up to the first turn of the loop
        await f.lab.push(WIDER, wait=10)
        with pytest.raises(StopIteration):
            while True:
                begun.send(None)
        assert {d.generation for d in controlled.desired.values()} == {2}
        assert all(f.numbers(h) == [1, 2] for h in HOSTS)


async def test_a_host_that_went_away_after_it_was_staged_is_not_waited_for_to_widen(tmp_path: Path) -> None:
    async with fleet(tmp_path, proving=("web1",)) as f:
        db, web = f.sessions["db1"], f.sessions["web2"]
        first = asyncio.create_task(f.lab.push(SHOP, wait=10))
        await asyncio.gather(db.acknowledge(confirmed=True), web.acknowledge(confirmed=True))
        await first
        async with f.lab.pushing(MOVED, wait=2) as pushing:
            await db.taken(await db.receive())  # staged
            await eventually(lambda: staged(f.lab, "db1"))
            db.call.cancel()
            await eventually(lambda: offline(f.lab, "db1"))
            async with web.proving():
                progress = await pushing
        assert "widening" in phases(progress)
        assert not progress[-1].done.undone


async def staged(lab: ControllerLab, host: str) -> bool:
    return bool(lab.controller.fleet.standing(host).staged)


async def offline(lab: ControllerLab, host: str) -> bool:
    return not lab.controller.fleet.standing(host).connected


async def test_a_full_disk_does_not_keep_a_controller_from_starting_that_ended_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet(tmp_path) as f:
        await f.lab.push(SHOP, wait=10)
        pushing = asyncio.create_task(f.lab.push(WIDER, wait=10, rollout=way(watch_seconds=60)))
        await eventually(lambda: watching(f.lab))
    await asyncio.gather(pushing, return_exceptions=True)

    def full(*_: Any) -> None:
        raise StateError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(SqlStore, "settle", full)
        async with running_controller(tmp_path) as lab:
            assert lab.controller.fleet.active.number == 1
    async with running_controller(tmp_path) as lab:
        reply = await lab.admin().History(admin_pb2.HistoryRequest(limit=5))
        assert [(g.number, g.state) for g in reply.generations] == [(2, "undone"), (1, "confirmed")]


@pytest.mark.parametrize("error", [StateError("the disk is full"), RuntimeError("what nobody foresaw")])
async def test_what_cannot_be_stored_brings_all_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with fleet(tmp_path) as f:
        await f.lab.push(SHOP, wait=10)

        def broken(*_: Any) -> None:
            raise error

        monkeypatch.setattr(SqlStore, "settle", broken)
        assert (await f.lab.push(WIDER, wait=10))[-1].done.undone
        assert await f.states() == dict.fromkeys(HOSTS, ("in-sync", 1))
        assert f.lab.controller.fleet.trial is None


async def test_refusals_to_stage_do_not_flood_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with fleet(tmp_path, proving=("web1", "web2")) as f:
        pushing = asyncio.create_task(f.lab.push(SHOP, wait=10))
        staging = (await f.sessions["db1"].receive()).policy
        refusal = agent_pb2.Staged(generation=1, digest=staging.digest, errors=["no"])
        for _ in range(300):
            await f.sessions["db1"].send(staged=refusal)
        assert (await pushing)[-1].done.undone
        await asyncio.sleep(0.5)
        assert sum("not staged host=db1" in r.getMessage() for r in caplog.records) < 70


async def test_who_ends_a_push_that_ended_meanwhile_changes_nothing(tmp_path: Path) -> None:
    """An operator may be asked for minutes whether to end it."""
    async with fleet(tmp_path) as f:
        await f.lab.push(SHOP, wait=10)
        await f.lab.push(WIDER, wait=10)
        with pytest.raises(grpc.aio.AioRpcError, match="generation 2 is not on trial any more, and nothing was"):
            await f.lab.admin().Rollback(admin_pb2.RollbackRequest(end_trial=2)).read()
        async with f.lab.pushing(MOVED, rollout=way(watch_seconds=60)) as pushing:
            await eventually(lambda: watching(f.lab))
            with pytest.raises(grpc.aio.AioRpcError, match="generation 2 is not on trial any more"):
                await f.lab.admin().Rollback(admin_pb2.RollbackRequest(end_trial=2)).read()
            ending = [p async for p in f.lab.admin().Rollback(admin_pb2.RollbackRequest(end_trial=3))]
            assert ending == await pushing
        assert ending[-1].done.undone
        assert len((await f.lab.admin().History(admin_pb2.HistoryRequest())).generations) == 3


async def test_hosts_are_told_together_to_who_asks_for_it(tmp_path: Path) -> None:
    def told(progress: list[Any]) -> set[tuple[str, str]]:
        each = [p.host for p in progress if p.WhichOneof("kind") == "host"]
        return {(h.host, h.state) for h in (*each, *(h for p in progress for h in p.hosts.proofs))}

    async with fleet(tmp_path) as servers:
        alone = await servers.lab.push(SHOP, rollout=way())
        together = await servers.lab.push(WIDER, rollout=way(), together=True)
    assert "hosts" not in {p.WhichOneof("kind") for p in alone}
    assert "host" not in {p.WhichOneof("kind") for p in together}
    assert told(alone) == told(together) == {(host, state) for host in HOSTS for state in ("staged", "proven")}
    assert [p.WhichOneof("kind") for p in together][-1] == "done"
