"""Agent.Session against a real controller with real certificates."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path

import grpc
import pytest
from segctl.model.hostpolicy import HostPolicy
from segctl.policy.compile import NO_BODY
from segctl.policy.digest import host_policy_digest
from segctl.proto.v1 import admin_pb2, agent_pb2, hostpolicy_pb2
from segctl.wire import PROTOCOL_VERSION
from segctl_controller import sessions
from segctl_controller.contest import Origin
from segctl_controller.errors import SilentPeerError, UnauthenticatedError
from segctl_controller.messages import PART, policy_messages
from segctl_controller.session import Session
from segctl_controller.sessions import BURST, PROOF_BURST, PROOF_RATE, SessionService
from segctl_controller.store.sql import SqlStore
from segctl_controller.trial import Desired, Kind, Order

from tests.controller_harness import ControllerLab, eventually, running_controller
from tests.unit.segctl_controller.policies import SHOP, WIDER

Code = grpc.StatusCode


async def refusal(session: object) -> tuple[Code, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while True:
            await session.receive()  # type: ignore[attr-defined]
    return caught.value.code(), caught.value.details() or ""


async def wait_for_state(lab: ControllerLab, host: str, state: str) -> admin_pb2.HostStatus:
    async def so() -> admin_pb2.HostStatus | None:
        status = (await lab.hosts())[host]
        return status if status.state == state else None

    return await eventually(so)  # type: ignore[no-any-return]


async def wait_for_problem(lab: ControllerLab, host: str, words: str) -> admin_pb2.HostStatus:
    async def so() -> admin_pb2.HostStatus | None:
        status = (await lab.hosts())[host]
        return status if any(words in p for p in status.problems) else None

    return await eventually(so)  # type: ignore[no-any-return]


async def wait_for_addresses(lab: ControllerLab, host: str, addresses: list[str]) -> None:
    async def so() -> bool:
        return list((await lab.hosts())[host].addresses) == addresses

    await eventually(so)


async def test_a_host_that_proves_its_policy_is_in_sync(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {"role": "web"})
        await lab.push(SHOP)
        async with web.session(["10.0.0.1"]) as session:
            policy = await session.policy()
            assert (policy.host, policy.generation) == ("web1", 1)
            await wait_for_state(lab, "web1", "pending")
            await session.prove(policy)
            status = await wait_for_state(lab, "web1", "in-sync")
            assert status.kernel_generation == 1
            assert status.kernel == "6.1.0"
            assert [(w.name, w.mode) for w in status.workloads] == [("host", "enforce")]
        await wait_for_state(lab, "web1", "offline")


async def test_only_hosts_whose_policy_changed_hear_of_a_new_address(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {"role": "web"})
        db = await lab.enrol("db1", {"role": "db"})
        await lab.push(SHOP)
        async with (
            web.session(["10.0.0.1"]) as one,
            db.session(["10.0.0.2"]) as two,
            one.proving() as at_web,
            two.proving() as at_db,
        ):

            def reaches(policies: list[HostPolicy], address: str) -> bool:
                return bool(policies) and address in {str(a) for g in policies[-1].groups for a in g.hosts}

            async def both_know_each_other() -> bool:
                return reaches(at_web, "10.0.0.2") and reaches(at_db, "10.0.0.1")

            async def db_knows_the_new_address() -> bool:
                return reaches(at_db, "10.0.0.9")

            await eventually(both_know_each_other)
            before = len(at_web)
            await one.send(facts=agent_pb2.Facts(addresses=[bytes([10, 0, 0, 9])]))
            await eventually(db_knows_the_new_address)
            await wait_for_state(lab, "db1", "in-sync")
            assert len(at_web) == before


async def test_a_refusal_is_shown_with_its_reasons(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {"role": "web"})
        await lab.push(SHOP)
        async with web.session(["10.0.0.1"]) as session:
            await session.refuse(await session.policy(), "kernel set is full")
            status = await wait_for_state(lab, "web1", "refused")
            assert any("kernel set is full" in problem for problem in status.problems)
            events = (await lab.admin().Status(admin_pb2.StatusRequest())).events
            assert "kernel set is full" in events[0].event.message


async def test_a_stale_ack_proves_nothing(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {"role": "web"})
        await lab.push(SHOP)
        async with web.session(["10.0.0.1"]) as session:
            await session.send(ack=agent_pb2.Ack(generation=1, digest="f" * 64, kernel_digest="k"))
            old = await session.policy()
            async with lab.pushing(WIDER):
                new = await session.policy()
                await session.prove(old)
                await wait_for_state(lab, "web1", "pending")
                await session.prove(new)
            assert (await wait_for_state(lab, "web1", "in-sync")).kernel_generation == 2


async def test_a_newer_session_ends_the_older(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {})
        async with web.session() as older:
            await older.receive()
            async with web.session() as newer:
                await newer.receive()
                code, text = await refusal(older)
                assert code is Code.ABORTED
                assert "newer session" in text
                assert (await lab.hosts())["web1"].connected


@pytest.mark.parametrize("protocol", [0, 1, 99])
async def test_another_protocol_version_is_refused(tmp_path: Path, protocol: int) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {})
        async with web.session(protocol=protocol) as session:
            code, text = await refusal(session)
        assert code is Code.FAILED_PRECONDITION
        assert f"speaks protocol {protocol}" in text


async def test_the_first_message_must_be_hello_and_only_the_first(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {})
        async with web.session() as session:
            await session.receive()
            await session.send(hello=agent_pb2.Hello(protocol=PROTOCOL_VERSION))
            assert (await refusal(session))[0] is Code.INVALID_ARGUMENT
        async with web.reports() as stream:
            await stream.write(agent_pb2.ReportBatch())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
            assert caught.value.code() is Code.INVALID_ARGUMENT


async def test_an_agent_cannot_claim_what_is_not_its_own(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {"role": "web"})
        liar = await lab.enrol("liar", {"role": "web"}, networks=["10.0.0.0/24", "192.0.2.0/24", "fe80::/10"])
        await lab.push(SHOP)
        claims = ["10.0.0.1", "10.9.9.9", "192.0.2.53", "127.0.0.1", "fe80::1", "224.0.0.1", "0.0.0.0", "10.0.0.7"]
        async with web.session(["10.0.0.1"]):
            await wait_for_addresses(lab, "web1", ["10.0.0.1"])
            async with liar.session(claims):
                await wait_for_addresses(lab, "liar", ["10.0.0.7"])
                problems = "\n".join((await wait_for_problem(lab, "liar", "10.0.0.1")).problems)
                assert "host web1 holds it" in problems
                assert "10.9.9.9: refused: its token allows only" in problems
                assert "192.0.2.53: refused: the policy lists it under essentials (dns)" in problems
                audit = await lab.admin().Audit(admin_pb2.AuditRequest())
                refused = {e.subject for e in audit.entries if e.action == "address-refused"}
                assert refused == {"10.0.0.1", "10.9.9.9", "192.0.2.53"}


async def test_a_server_named_by_its_token_may_be_an_essential(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        dns = await lab.enrol("dns1", {"role": "db"}, networks=["192.0.2.53/32"])
        await lab.push(SHOP)
        async with dns.session(["192.0.2.53"]):
            await wait_for_addresses(lab, "dns1", ["192.0.2.53"])


async def test_a_refused_address_is_taken_when_its_holder_lets_go(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        one, two = await lab.enrol("one", {}), await lab.enrol("two", {})
        async with one.session(["10.0.0.1"]) as first, two.session(["10.0.0.1"]):
            await wait_for_problem(lab, "two", "host one holds it")
            await first.send(facts=agent_pb2.Facts(addresses=[bytes([10, 0, 0, 2])]))
            await wait_for_addresses(lab, "two", ["10.0.0.1"])
            assert not [p for p in (await lab.hosts())["two"].problems if "refused" in p]


async def test_facts_over_the_bounds_end_the_session(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {})
        many = agent_pb2.Facts(addresses=[bytes([10, 0, n // 250, n % 250]) for n in range(300)])
        units = agent_pb2.Facts(units=[agent_pb2.UnitFact(cgroup="a")] * 5000)
        long = agent_pb2.Facts(units=[agent_pb2.UnitFact(cgroup="a" * 2000)])
        odd = agent_pb2.Facts(addresses=[b"123"])
        huge = agent_pb2.Facts(kernel="k" * 10_000_000)
        expected = [Code.RESOURCE_EXHAUSTED] * 3 + [Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED]
        codes = []
        for facts in (many, units, long, odd, huge):
            async with web.session(["10.0.0.1"]) as session:
                await session.receive()
                await session.send(facts=facts)
                codes.append((await refusal(session))[0])
        assert codes == expected
        assert list((await lab.hosts())["web1"].addresses) == ["10.0.0.1"]


async def test_a_silent_agent_is_closed_and_a_live_one_gets_heartbeats(tmp_path: Path) -> None:
    async with running_controller(tmp_path, heartbeat=1) as lab:
        web = await lab.enrol("web1", {})
        async with web.session() as session:
            await session.call.read()
            beats = 0
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async with asyncio.timeout(10):
                    while (message := await session.call.read()) is not grpc.aio.EOF:
                        beats += message.WhichOneof("kind") == "heartbeat"
                    code, details = await session.call.code(), await session.call.details()
                    raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)
            assert caught.value.code() is Code.DEADLINE_EXCEEDED
            assert "silent for 3 seconds" in (caught.value.details() or "")
            assert beats >= 2


async def test_what_the_fleet_knew_is_there_after_a_restart(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {"role": "web"})
        await lab.push(SHOP)
        async with web.session(["10.0.0.1"], units=[agent_pb2.UnitFact(cgroup="a.service", workload="host")]) as s:
            await s.acknowledge()
            await wait_for_state(lab, "web1", "in-sync")
        before = (await lab.hosts())["web1"]
        history = await lab.admin().History(admin_pb2.HistoryRequest())
    async with running_controller(tmp_path) as lab:
        after = (await lab.hosts())["web1"]
        assert (after.state, after.kernel_generation, list(after.addresses)) == ("offline", 1, ["10.0.0.1"])
        assert after.workloads == before.workloads
        assert await lab.admin().History(admin_pb2.HistoryRequest()) == history
        again = type(web)(lab, web.name, web.identity)
        async with again.session(["10.0.0.1"]) as session:
            assert (await session.acknowledge()).generation == 1
            await wait_for_state(lab, "web1", "in-sync")


@pytest.fixture
def large() -> bytes:
    return bytes(range(256)) * 10_000


def test_a_large_policy_goes_in_parts(large: bytes) -> None:
    parts = [agent_pb2.ControllerMessage.FromString(m).chunk for m in policy_messages(large)]
    assert b"".join(p.data for p in parts) == large
    assert [p.more for p in parts] == [True, True, False]
    assert max(len(p.data) for p in parts) <= PART


@pytest.mark.parametrize("size", [0, 1, 127, 128, 20_000, PART])
def test_a_policy_wrapped_by_hand_reads_as_one_made_by_protobuf(size: int) -> None:
    wire = hostpolicy_pb2.HostPolicy(host="h" * max(0, size - 8)).SerializeToString()
    [message] = policy_messages(wire)
    assert agent_pb2.ControllerMessage.FromString(message).policy.SerializeToString() == wire


async def test_a_slow_agent_gets_the_latest_policy_only() -> None:
    session = Session("web1", Origin(), 10.0)
    policies = [Desired("web1", number, "d", NO_BODY) for number in range(1, 6)]
    for policy in policies:
        session.offer((Order(Kind.HOLD, policy),))
    await session.next_messages()
    assert session.sent_generation(policies[4].digest) == 5
    assert session.sent_generation(policies[3].digest) is None


async def test_a_policy_refused_after_it_was_proved_is_not_in_sync(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {"role": "web"})
        await lab.push(SHOP)
        async with web.session(["10.0.0.1"]) as session:
            await session.receive()
            policy = await session.acknowledge()
            await wait_for_state(lab, "web1", "in-sync")
            await session.refuse(policy, "somebody else's table is in the way")
            await wait_for_state(lab, "web1", "refused")
            await session.prove(policy)
            await wait_for_state(lab, "web1", "in-sync")


async def test_a_machine_enrolled_anew_never_sees_the_policy_of_the_one_before(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        before = await lab.enrol("x1", {"role": "db"})
        await lab.push(SHOP)
        async with before.session(["10.0.0.2"]) as session:
            await session.receive()
            await session.acknowledge()
        token = await lab.token({"role": "web"}, host="x1", replace=True)
        after = await lab.enrol_with(token.join, "x1")
        wanted = lab.controller.fleet.desired.get("x1")
        assert wanted is None or "shop-db" not in {w.name for w in wanted.policy.workloads}  # type: ignore[union-attr]
        async with after.session(["10.0.0.2"]) as session:
            await session.receive()
            assert "shop-db" not in {w.name for w in (await session.policy()).workloads}


async def test_a_full_disk_ends_no_session(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {"role": "web"})
        await lab.push(SHOP)
        store = lab.controller.db.store
        assert isinstance(store, SqlStore)
        with store._engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        units = [agent_pb2.UnitFact(cgroup=f"{n}" + "x" * 1000, workload="host") for n in range(400)]
        async with web.session(["10.0.0.1"], units=units) as session:
            await session.receive()
            await session.acknowledge()
            status = await wait_for_state(lab, "web1", "in-sync")
            assert list(status.addresses) == ["10.0.0.1"]


async def test_facts_that_flood_are_taken_newest_first_and_slowly(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {"role": "web"})
        async with web.session(["10.0.0.1"]) as session:
            await session.receive()
            before = lab.controller.fleet.revision
            for number in range(1000):
                address = ip_address("10.0.1.0") + number % 2
                await session.send(facts=agent_pb2.Facts(addresses=[address.packed]))
            await session.send(facts=agent_pb2.Facts(addresses=[ip_address("10.0.2.2").packed]))

            async def newest() -> bool:
                return list((await lab.hosts())["web1"].addresses) == ["10.0.2.2"]

            await eventually(newest)
            assert lab.controller.fleet.revision - before <= BURST + 10


async def test_proofs_that_flood_are_stored_slowly(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {"role": "web"})
        await lab.push(SHOP)
        began = time.monotonic()
        async with web.session(["10.0.0.1"]) as session:
            await session.receive()
            policy = await session.acknowledge()

            async def flood() -> None:
                for number in range(1000):
                    await session.prove(policy, f"{number}")

            async def stored() -> int:
                return len(await lab.controller.db.call(lab.controller.db.store.proofs, "web1", 1000))

            async def burst() -> bool:
                return await stored() >= PROOF_BURST

            flooding = asyncio.create_task(flood())
            await eventually(burst)
            await asyncio.sleep(0.5)
            assert await stored() <= PROOF_BURST + PROOF_RATE * (time.monotonic() - began) + 1
            flooding.cancel()


async def test_a_host_removed_while_it_is_explained_is_no_crash(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        assert lab.controller.fleet.state("gone") == "offline"


class SlowReader:
    """The controller's side of a stream whose agent takes Welcome only when `meanwhile` is over."""

    def __init__(self, certificate: bytes, uri: str, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self._identity = {"x509_pem_cert": [certificate], "peer_spiffe_id": [uri.encode()]}
        self._meanwhile = meanwhile
        self.refused: tuple[Code, str] | None = None

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._identity

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def read(self) -> agent_pb2.AgentMessage:
        return agent_pb2.AgentMessage(
            hello=agent_pb2.Hello(protocol=PROTOCOL_VERSION, agent_version="slow", boot_id="b")
        )

    async def write(self, _message: bytes) -> None:
        await self._meanwhile()

    async def abort(self, code: Code, text: str) -> None:
        self.refused = (code, text)


async def test_a_slow_reader_cannot_outlive_its_certificate(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        before = await lab.enrol("x1", {"role": "db"})
        token = await lab.token({"role": "web"}, host="x1", replace=True)
        fleet = lab.controller.config.fleet
        service = SessionService(fleet, lab.controller.registry, lab.controller.clock, 10)
        stream = SlowReader(
            before.identity.certificate, f"spiffe://{fleet}/host/x1", lambda: lab.enrol_with(token.join, "x1")
        )
        with pytest.raises(UnauthenticatedError):
            await service.serve(stream)  # type: ignore[arg-type]
        assert stream.refused is not None
        assert stream.refused[0] is Code.UNAUTHENTICATED
        assert lab.controller.registry.session("x1") is None


async def test_a_change_of_members_is_sent_as_that(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {"role": "web"})
        db = await lab.enrol("db1", {"role": "db"})
        await lab.push(SHOP)
        async with web.session(["10.0.0.1"]) as session:
            await session.receive()
            await session.acknowledge()
            async with db.session(["10.0.0.2"]):
                message = await session.receive()
                assert message.WhichOneof("kind") == "delta"
                [group] = message.delta.groups
                assert (group.added4, group.removed4) == (bytes([10, 0, 0, 2]), b"")
                policy = await session.taken(message)
                assert policy is not None
                await session.prove(policy)
                await wait_for_state(lab, "web1", "in-sync")


async def test_a_host_that_comes_back_proves_what_it_holds_without_being_sent_it(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {"role": "web"})
        await lab.push(SHOP)
        async with web.session(["10.0.0.1"]) as session:
            await session.receive()
            policy = await session.acknowledge()
            await wait_for_state(lab, "web1", "in-sync")
        digest = host_policy_digest(policy)
        holds = {"generation": 1, "confirmed": 1, "digest": digest}
        async with web.session(["10.0.0.1"], said=holds) as session:
            await session.receive()
            assert (await lab.hosts())["web1"].state == "pending"
            message = await session.receive()
            assert message.delta == hostpolicy_pb2.HostDelta(generation=1, base=digest, digest=digest)
            await session.prove(policy)
            await wait_for_state(lab, "web1", "in-sync")
        # What is in force there on trial is no base: it may be gone before a change of it comes.
        async with web.session(["10.0.0.1"], said={**holds, "confirmed": 0}) as session:
            await session.receive()
            assert (await session.receive()).WhichOneof("kind") == "policy"


async def test_a_host_that_cannot_use_a_change_gets_the_whole(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {"role": "web"})
        db = await lab.enrol("db1", {"role": "db"})
        await lab.push(SHOP)
        async with web.session(["10.0.0.1"]) as session, db.session(["10.0.0.2"]):
            await session.receive()
            while (message := await session.receive()).WhichOneof("kind") != "delta":
                await session.taken(message)
            await session.send(resend=agent_pb2.Resend(digest=message.delta.digest))
            whole = await session.receive()
            assert whole.policy.digest == message.delta.digest
            policy = await session.taken(whole)
            assert policy is not None
            await session.prove(policy)
            await wait_for_state(lab, "web1", "in-sync")


async def test_who_is_silent_and_who_is_owed_a_heartbeat() -> None:
    now = asyncio.get_running_loop().time()
    session = Session("web1", Origin(), 10.0)
    assert not session.look(now + 9)
    assert session.look(now + 11)  # nothing was written for a heartbeat
    session.heard(handling=True)  # a store that is slow is not the agent's silence
    assert session.look(now + 100)
    assert not session.ended.done()
    session.heard()
    assert not session.look(now + 100)
    assert "silent for 30 seconds" in str(session.ended.exception())
    stuck = Session("web2", Origin(), 10.0)
    stuck.writes(True)
    stuck.heard(handling=True)
    assert not stuck.look(now + 29)
    assert not stuck.ended.done()
    stuck.look(now + 100)
    assert "does not read its stream" in str(stuck.ended.exception())


async def test_in_a_large_fleet_only_a_host_with_something_on_trial_gets_each_heartbeat() -> None:
    now = asyncio.get_running_loop().time()
    session = Session("web1", Origin(), 10.0, calm=40.0)
    session.heard()
    assert not session.look(now + 39)
    assert session.look(now + 41)
    session.withdraw(7, "digest", "it is on trial no more")
    assert session.look(now + 11)
    assert not session.ended.done()
    session.look(now + 121)
    assert "silent for 120 seconds" in str(session.ended.exception())


async def test_a_large_fleet_is_welcomed_with_a_slower_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "HEARTBEATS_A_SECOND", 1 / 30)
    async with running_controller(tmp_path, heartbeat=1) as lab:
        web = await lab.enrol("web1", {})
        async with web.session() as session:
            assert (await session.call.read()).welcome.heartbeat_seconds == 30


async def test_a_session_that_the_controller_ended_is_gone_without_the_collector(tmp_path: Path) -> None:
    """What is set aside (garbage.py) is not looked through for hours: no cycle may hold a session."""
    async with running_controller(tmp_path) as lab:
        agent = await lab.enrol("web1", {"role": "web"})
        async with agent.session(["10.0.0.1"]) as session:
            await session.receive()
            registry = lab.controller.registry
            ended = weakref.ref(registry.sessions["web1"])
            gc.collect()
            gc.freeze()
            try:
                registry.end("web1", SilentPeerError("silent"))

                async def is_gone() -> bool:
                    return ended() is None

                await eventually(is_gone)
            finally:
                gc.unfreeze()
