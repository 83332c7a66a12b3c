"""Two controllers on one PostgreSQL: whichever one is asked, the fleet is one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import grpc
import psycopg
import pytest
from segctl.errors import StateError
from segctl.model.hostpolicy import HostPolicy
from segctl.proto.v1 import admin_pb2
from segctl_controller.authority import Authority
from segctl_controller.backup import join, take_backup
from segctl_controller.clock import Clock
from segctl_controller.config import load_config, save_config
from segctl_controller.replicas import roster, trials
from segctl_controller.server import open_controller
from segctl_controller.setup import open_store
from segctl_controller.store import postgres_sessions, postgres_shared
from segctl_controller.store.conninfo import Conninfo

from tests.contract.test_notices import end_sessions
from tests.controller_harness import NAME, SECONDS, ControllerLab, FakeSession, eventually
from tests.replica_harness import at, controller_at, kill, replicas, state_of_fleet
from tests.unit.segctl_controller.policies import SHOP, WIDER

HOSTS = {"db1": "db", "web1": "web"}
LEASE = 3.0
SHARED = ip_address("10.0.0.9")


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (roster, trials, postgres_shared):
        monkeypatch.setattr(module, "LEASE_SECONDS", LEASE)
    for module in (postgres_sessions, postgres_shared):
        monkeypatch.setattr(module, "AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(postgres_shared, "BEAT_SECONDS", 0.1)


class Fleet:
    """db1 is connected to `one`, web1 to `two`."""

    def __init__(self, one: ControllerLab, two: ControllerLab) -> None:
        self.one, self.two = one, two
        self.sessions: dict[str, FakeSession] = {}
        self.told: dict[str, list[HostPolicy]] = {}
        self.claiming: list[asyncio.Task[None]] = []

    def numbers(self, host: str) -> list[int]:
        return [p.generation for p in self.told[host]]

    async def agree(self, states: dict[str, tuple[str, int]]) -> None:
        """Both controllers say so before long."""
        for lab in (self.one, self.two):

            async def told(lab: ControllerLab = lab) -> bool:
                return {n: (h.state, h.kernel_generation) for n, h in (await lab.hosts()).items()} == states

            await eventually(told)


@asynccontextmanager
async def fleet(base: Path, where: Conninfo, proving: tuple[str, ...] = tuple(HOSTS)) -> AsyncIterator[Fleet]:
    async with replicas(base, where) as (one, two), AsyncExitStack() as stack:
        f = Fleet(one, two)
        for lab, (name, role) in zip((one, two), HOSTS.items(), strict=True):
            agent = await lab.enrol(name, {"role": role})
            f.sessions[name] = await stack.enter_async_context(agent.session([f"10.0.0.{len(f.sessions) + 1}"]))
            await f.sessions[name].receive()
            if name in proving:
                f.told[name] = await stack.enter_async_context(f.sessions[name].proving())
        await f.agree(dict.fromkeys(HOSTS, ("in-sync", 0)))
        yield f


async def trial_at(lab: ControllerLab, phase: str) -> None:
    async def there() -> bool:
        status = await lab.admin().Status(admin_pb2.StatusRequest())
        return bool(status.HasField("trial") and status.trial.phase.name == phase)

    await eventually(there)


async def history(lab: ControllerLab) -> list[tuple[int, str, bool]]:
    reply = await lab.admin().History(admin_pb2.HistoryRequest(limit=5))
    return [(g.number, g.state, g.active) for g in reply.generations]


async def test_a_push_to_either_reaches_the_hosts_of_both(tmp_path: Path, postgres: Conninfo) -> None:
    async with fleet(tmp_path, postgres) as f:
        for number, (lab, policy) in enumerate([(f.one, SHOP), (f.two, WIDER), (f.one, SHOP)], 1):
            progress = await lab.push(policy, wait=10)
            assert (progress[-1].done.undone, progress[-1].done.proven) == (False, 2), progress[-1]
            assert all(f.numbers(host) == [*range(1, number + 1)] for host in HOSTS)
            await f.agree(dict.fromkeys(HOSTS, ("in-sync", number)))
        assert await history(f.one) == await history(f.two)


async def test_a_refusal_at_one_brings_the_hosts_of_all_back(tmp_path: Path, postgres: Conninfo) -> None:
    async with fleet(tmp_path, postgres, proving=("web1",)) as f:
        db = f.sessions["db1"]

        async def refuse_the_second() -> None:
            await db.acknowledge(confirmed=True)
            await db.refuse(await db.policy(), "no memory")
            await db.acknowledge()

        answering = asyncio.create_task(refuse_the_second())
        assert not (await f.two.push(SHOP, wait=10))[-1].done.undone
        done = (await f.two.push(WIDER, wait=10))[-1].done
        assert (done.undone, done.why) == (True, "db1 refused it: no memory")
        await answering
        assert f.numbers("web1") == [1, 2, 1]
        await f.agree(dict.fromkeys(HOSTS, ("in-sync", 1)))
        assert await history(f.one) == await history(f.two) == [(2, "undone", False), (1, "confirmed", True)]


async def test_either_shows_a_trial_and_ends_it(tmp_path: Path, postgres: Conninfo) -> None:
    async with fleet(tmp_path, postgres) as f:
        await f.one.push(SHOP, wait=10)
        rollout = admin_pb2.Rollout(watch_seconds=60)
        pushing = asyncio.create_task(f.one.push(WIDER, wait=10, rollout=rollout))
        await trial_at(f.two, "watching")
        with pytest.raises(grpc.aio.AioRpcError, match="generation 2 is on trial"):
            await f.two.push(SHOP)
        request = admin_pb2.RollbackRequest(end_trial=2)
        told = [progress async for progress in f.two.admin().Rollback(request)]
        assert [p.WhichOneof("kind") for p in told[:2]] == ["stored", "phase"]
        assert (told[-1].done.undone, told[-1].done.why) == (True, "root ended it")
        assert (await pushing)[-1].done.why == "root ended it"
        assert all(f.numbers(host) == [1, 2, 1] for host in HOSTS)
        await f.agree(dict.fromkeys(HOSTS, ("in-sync", 1)))


@pytest.mark.parametrize("phase", ["staging", "activating", "watching"])
async def test_the_trial_of_a_controller_that_is_killed_is_undone(
    tmp_path: Path, postgres: Conninfo, phase: str
) -> None:
    async with fleet(tmp_path, postgres) as f:
        await f.one.push(SHOP, wait=10)
        db1 = f.sessions["db1"]
        db1.silent = {"staging": "staged", "activating": "ack"}.get(phase, "")
        pushing = asyncio.create_task(f.one.push(WIDER, wait=60, rollout=admin_pb2.Rollout(watch_seconds=60)))
        await trial_at(f.two, phase)
        await kill(f.one)
        await asyncio.gather(pushing, return_exceptions=True)
        said = {"generation": 1 if phase == "staging" else 2, "confirmed": 1}
        async with at(f.two, db1.agent).session(["10.0.0.1"], said=said) as session, session.proving() as told:

            async def undone() -> bool:
                states = {n: (h.state, h.kernel_generation) for n, h in (await f.two.hosts()).items()}
                settled = await history(f.two) == [(2, "undone", False), (1, "confirmed", True)]
                return settled and states == dict.fromkeys(HOSTS, ("in-sync", 1))

            await eventually(undone)
            assert told[-1].generation == f.numbers("web1")[-1] == 1
            assert not (await f.two.push(WIDER, wait=10))[-1].done.undone
            assert told[-1].generation == f.numbers("web1")[-1] == 3


async def test_a_host_that_comes_to_another_controller_leaves_the_one_before(
    tmp_path: Path, postgres: Conninfo
) -> None:
    async with fleet(tmp_path, postgres, proving=("web1",)) as f:
        await f.two.push(SHOP, wait=1)  # db1 says nothing: undone
        db1 = f.sessions["db1"]
        async with at(f.two, db1.agent).session(["10.0.0.1"]) as moved, moved.proving():
            with pytest.raises(grpc.aio.AioRpcError, match="with another controller, took the place"):
                while True:
                    await db1.receive()
            assert not (await f.one.push(SHOP, wait=10))[-1].done.undone
            await f.agree(dict.fromkeys(HOSTS, ("in-sync", 2)))
        await f.agree({"db1": ("offline", 2), "web1": ("in-sync", 2)})


async def test_two_machines_with_one_identity_at_two_controllers_are_noticed(
    tmp_path: Path, postgres: Conninfo
) -> None:
    async with fleet(tmp_path, postgres) as f:
        thief = at(f.two, f.sessions["db1"].agent)
        async with thief.session(["10.0.0.1"], boot_id="another"):

            async def told() -> bool:
                reply = await f.two.admin().Audit(admin_pb2.AuditRequest())
                return any(e.action == "identity-contested" and "of another boot" in e.detail for e in reply.entries)

            await eventually(told)


async def test_who_was_taken_for_dead_takes_its_push_back(tmp_path: Path, postgres: Conninfo) -> None:
    async with fleet(tmp_path, postgres) as f:
        await f.one.push(SHOP, wait=10)
        pushing = asyncio.create_task(f.one.push(WIDER, wait=10, rollout=admin_pb2.Rollout(watch_seconds=60)))
        await trial_at(f.two, "watching")
        publisher = f.two.controller.publisher
        publisher.abandoned = lambda _number: True  # it saw nothing of the other for a while
        await publisher.settle_leftovers()
        done = (await pushing)[-1].done
        assert (done.undone, done.why) == (True, "the controller ended while it was on trial")
        await f.agree(dict.fromkeys(HOSTS, ("in-sync", 1)))
        assert all(f.numbers(host) == [1, 2, 1] for host in HOSTS)


async def test_what_is_done_to_a_host_at_one_holds_at_the_other(tmp_path: Path, postgres: Conninfo) -> None:
    async with fleet(tmp_path, postgres) as f:
        request = admin_pb2.SetTagsRequest(host="db1", set={"role": "web"})
        await f.two.admin().SetTags(request)

        async def tagged() -> bool:
            return (await f.one.hosts())["db1"].tags == {"role": "web"}

        await eventually(tagged)
        assert (await f.one.hosts())["db1"].addresses == ["10.0.0.1"]
        await f.two.admin().RemoveHost(admin_pb2.RemoveHostRequest(host="db1"))
        await ended(f.sessions["db1"], "was removed from the fleet")
        assert [*(await f.one.hosts())] == ["web1"]
        await f.one.enrol("web1", {"role": "web"}, host="web1", replace=True)
        await ended(f.sessions["web1"], "was enrolled anew")


async def test_tags_that_are_set_at_both_at_once_are_all_there(tmp_path: Path, postgres: Conninfo) -> None:
    async with fleet(tmp_path, postgres) as f:
        labs = (f.one, f.two)

        async def tag(number: int) -> None:
            request = admin_pb2.SetTagsRequest(host="db1", set={f"key{number}": "x"})
            await labs[number % 2].admin().SetTags(request)

        await asyncio.gather(*map(tag, range(12)))
        wanted = {"role": "db", **{f"key{number}": "x" for number in range(12)}}

        async def everywhere() -> bool:
            return [dict((await lab.hosts())["db1"].tags) for lab in labs] == [wanted, wanted]

        await eventually(everywhere)


async def ended(session: FakeSession, why: str) -> None:
    async with asyncio.timeout(SECONDS):
        assert why in await session.call.details()


async def test_of_two_hosts_that_take_one_address_the_one_that_was_enrolled_first_keeps_it(
    tmp_path: Path, postgres: Conninfo
) -> None:
    async with fleet(tmp_path, postgres) as f:
        facts = [("db1", f.one), ("web1", f.two)]
        for host, lab in facts:  # as if each came before the other's notice
            registry = lab.controller.registry
            claims = replace(registry._claims[host], addresses=(*registry._claims[host].addresses, SHARED))
            session = registry.session(host)
            assert session is not None
            claiming = asyncio.create_task(registry.claim(session, claims))
            await asyncio.sleep(0)
            assert SHARED in registry.fleet.hosts[host].addresses
            f.claiming.append(claiming)

        async def settled() -> bool:
            found = [{n: h.addresses for n, h in (await lab.hosts()).items()} for lab in (f.one, f.two)]
            return found == [{"db1": ["10.0.0.1", str(SHARED)], "web1": ["10.0.0.2"]}] * 2

        await eventually(settled)

        async def told() -> bool:
            return any("refused: host db1 holds it" in p for p in (await f.one.hosts())["web1"].problems)

        await eventually(told)


async def test_denials_are_followed_at_either(tmp_path: Path, postgres: Conninfo) -> None:
    from tests.unit.segctl_controller.test_reports import batch, denial

    async with fleet(tmp_path, postgres) as f:
        agent = f.sessions["web1"].agent
        async with agent.reports() as stream:
            await stream.write(batch(1, denial()))
            await stream.read()
            calls = [lab.admin().Denied(admin_pb2.DeniedRequest(follow=True)) for lab in (f.one, f.two)]
            for call in calls:
                assert (await call.read()).connection.denial.count == 1
            await stream.write(batch(2, denial()))
            await stream.read()
            for call in calls:
                async with asyncio.timeout(SECONDS):
                    assert (await call.read()).connection.denial.count == 2
                call.cancel()


async def test_what_happened_while_the_database_was_not_heard_is_made_up_for(
    tmp_path: Path, postgres: Conninfo
) -> None:
    async with fleet(tmp_path, postgres) as f:
        end_sessions(postgres)
        progress = None
        while progress is None:
            try:
                progress = await f.one.push(SHOP, wait=10)
            except grpc.aio.AioRpcError as error:  # the session of the store is one of those that ended
                assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert not progress[-1].done.undone
        await f.agree(dict.fromkeys(HOSTS, ("in-sync", 1)))


async def test_without_its_database_a_controller_takes_no_sessions_and_keeps_none_on_trial(
    tmp_path: Path, postgres: Conninfo
) -> None:
    async with fleet(tmp_path, postgres) as f:
        await f.one.push(SHOP, wait=10)
        pushing = asyncio.create_task(f.one.push(WIDER, wait=2, rollout=admin_pb2.Rollout(watch_seconds=60)))
        await trial_at(f.two, "watching")
        allow(postgres, connections=False)
        try:
            await ended(f.sessions["web1"], "cannot reach its database")
            await asyncio.gather(pushing, return_exceptions=True)  # its operator's rights cannot be looked at either

            async def taken_back() -> bool:
                return f.numbers("db1") == [1, 2, 1]

            await eventually(taken_back)
            with pytest.raises(grpc.aio.AioRpcError, match="cannot reach its database"):
                async with f.sessions["web1"].agent.session(["10.0.0.2"]) as session:
                    await session.receive()
        finally:
            allow(postgres, connections=True)

        async def back() -> bool:
            return await history(f.two) == [(2, "undone", False), (1, "confirmed", True)]

        await eventually(back)


def allow(where: Conninfo, *, connections: bool) -> None:
    """Or end those that there are."""
    parameters = {**where.parameters, "dbname": "postgres"}
    with psycopg.connect(**parameters, autocommit=True) as connection:
        statement = f"ALTER DATABASE {where.parameters['dbname']} ALLOW_CONNECTIONS {connections}"
        connection.execute(statement.encode())
        if not connections:
            sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            connection.execute(sessions, (where.parameters["dbname"],))


async def test_the_hosts_of_one_that_is_gone_are_offline(tmp_path: Path, postgres: Conninfo) -> None:
    async with fleet(tmp_path, postgres) as f:
        await f.one.push(SHOP, wait=10)
        await kill(f.one)

        async def offline() -> bool:
            return {n: h.state for n, h in (await f.two.hosts()).items()} == {"db1": "offline", "web1": "in-sync"}

        await eventually(offline)


async def test_one_that_took_long_to_start_takes_sessions_at_once(tmp_path: Path, postgres: Conninfo) -> None:
    state = state_of_fleet(tmp_path, postgres)
    controller = open_controller(state, load_config(state), open_store(state))
    await asyncio.sleep(LEASE + 0.2)  # it opens the flow store, and loads many hosts
    try:
        await controller.start()
        until = asyncio.get_running_loop().time() + LEASE / 2
        while asyncio.get_running_loop().time() < until:
            assert controller.registry.closed() == ""
            await asyncio.sleep(0)
    finally:
        await controller.stop()


async def test_one_more_joins_with_a_backup(tmp_path: Path, postgres: Conninfo) -> None:
    async with replicas(tmp_path, postgres, count=1) as (one,):
        take_backup(one.state, tmp_path / "backup", Clock())
        agent = await one.enrol("web1", {"role": "web"})  # since
        state = tmp_path / "more"
        assert join(tmp_path / "backup", state, NAME, Clock()).fleet == one.controller.config.fleet
        with pytest.raises(StateError, match="there is a controller already"):
            join(tmp_path / "backup", state, NAME, Clock())
        async with controller_at(tmp_path, state) as two, at(two, agent).session() as session, session.proving():
            await one.push(SHOP, wait=10)

            async def holds() -> bool:
                return (await one.hosts())["web1"].state == "in-sync"

            await eventually(holds)


async def test_a_controller_of_another_fleet_is_refused(tmp_path: Path, postgres: Conninfo) -> None:
    async with replicas(tmp_path, postgres, count=1) as (one,):
        known = one.controller.config.fleet
    state = tmp_path / "controller"
    other = Authority.create("other-fleet", Clock().now())
    for name in ("ca.key", "ca.pem"):
        (state / name).unlink()
    other.save(state)
    config = replace(load_config(state), fleet="other-fleet")
    save_config(state, config)
    controller = open_controller(state, config, open_store(state))
    with pytest.raises(StateError, match=f"is that of the fleet {known}"):
        await controller.start()
    await controller.stop()
