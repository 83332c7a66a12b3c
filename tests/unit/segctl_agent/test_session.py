"""The session over real mutual TLS, against a controller of a few lines that the test drives as a conversation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import grpc
import pytest
from segctl import wire
from segctl.errors import KernelError
from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import Mode
from segctl.policy.digest import host_policy_digest
from segctl.proto.v1 import agent_pb2 as pb
from segctl.proto.v1 import agent_pb2_grpc as rpc
from segctl_agent.channel import Backoff
from segctl_agent.conversation import (
    MAX_DRAFTS,
    MAX_POLICY_BYTES,
    PROTOCOL,
    Activation,
    Confirmation,
    Conversation,
    ImpactAsked,
    InForce,
    NewPolicy,
    Order,
    Withdrawal,
)
from segctl_agent.reports import ReportQueue
from segctl_agent.session import Ended, Proof, Session

from tests.unit.segctl_agent.pki import DAY, Authority

PATIENCE = 10.0
POLICY = HostPolicy("web-1", 3, "d" * 64, (LocalWorkload("host", None, Mode.ENFORCE),))


@dataclass
class FakeHost:
    """An agent that applies everything but `refuses`."""

    current: InForce = field(default_factory=InForce)
    refuses: set[int] = field(default_factory=set)
    applied: list[int] = field(default_factory=list)
    gate: asyncio.Event | None = None
    kernel: str = "6.18"
    facts_seconds: float = 0.0
    looks: int = 0
    words: int = 0
    took_back: Ended | None = None
    policy: HostPolicy | None = None
    orders: list[Order] = field(default_factory=list)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def settled(self) -> None:
        async with self.changing:
            return

    def in_force(self) -> InForce:
        return self.current

    def facts(self) -> pb.Facts:
        time.sleep(self.facts_seconds)
        self.looks += 1
        return pb.Facts(kernel=self.kernel, addresses=[bytes(4)])

    async def put(self, new: NewPolicy) -> Proof:
        if self.gate is not None:
            await self.gate.wait()
        if new.policy.generation in self.refuses:
            raise KernelError("add 9 elements to set w0_in4: the set is full")
        self.applied.append(new.policy.generation)
        self.policy = new.policy
        self.current = InForce(new.policy.generation, new.digest, "", new.policy.generation)
        return Proof("k" * 64, 1234, ("no user backup here",), stored=True)

    def holding(self) -> HostPolicy | None:
        return self.policy

    def ended(self) -> Ended | None:
        return self.took_back

    def heard(self) -> None:
        self.words += 1

    async def stage(self, new: NewPolicy) -> None:
        if new.policy.generation in self.refuses:
            raise KernelError("add 9 elements to set w0_in4: the set is full")
        self.orders.append(new)

    async def activate(self, asked: Activation) -> Proof:
        self.orders.append(asked)
        self.current = replace(self.current, generation=asked.generation, digest=asked.digest)
        return Proof("k" * 64, 1234)

    async def take_back(self, asked: Withdrawal) -> None:
        self.orders.append(asked)

    async def confirm(self, asked: Confirmation) -> Proof:
        self.orders.append(asked)
        self.current = replace(self.current, confirmed=asked.generation)
        return Proof("k" * 64, 1234, stored=True)

    def probe(self, request: pb.ProbeRequest) -> pb.ProbeReply:
        return pb.ProbeReply(id=request.id, verdict="allowed", generation=self.current.generation)

    async def impact(self, asked: ImpactAsked) -> pb.ImpactReply:
        if self.gate is not None:
            await self.gate.wait()
        return pb.ImpactReply(id=asked.id, live=len(asked.draft), cut=asked.limit)


class Controller(rpc.AgentServicer):
    """Each session is handed to the test as (messages received, a function to send)."""

    def __init__(self, host: str = "web-1", protocol: int = PROTOCOL) -> None:
        self.host, self.protocol = host, protocol
        self.heard: asyncio.Queue[pb.AgentMessage] = asyncio.Queue()
        self.to_send: asyncio.Queue[pb.ControllerMessage | None] = asyncio.Queue()
        self.batches: asyncio.Queue[pb.ReportBatch] = asyncio.Queue()
        self.acks: asyncio.Queue[int] = asyncio.Queue()
        self.report_errors: list[grpc.StatusCode] = []
        self.refusal = ""
        self.sessions = 0
        self.shown: list[bytes] = []

    async def Session(self, request_iterator: Any, context: Any) -> AsyncIterator[pb.ControllerMessage]:
        self.sessions += 1
        self.shown += context.auth_context()["x509_pem_cert"]
        if self.refusal:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, self.refusal)
        reader = asyncio.create_task(self._hear(request_iterator))
        yield pb.ControllerMessage(welcome=pb.Welcome(protocol=self.protocol, host=self.host, heartbeat_seconds=1))
        try:
            while (message := await self.to_send.get()) is not None:
                yield message
        finally:
            reader.cancel()

    async def _hear(self, messages: AsyncIterator[pb.AgentMessage]) -> None:
        async for message in messages:
            await self.heard.put(message)

    async def Report(self, request_iterator: Any, context: Any) -> AsyncIterator[pb.ReportAck]:
        async for batch in request_iterator:
            if self.report_errors:
                await context.abort(self.report_errors.pop(), "the batch is not to our taste")
            await self.batches.put(batch)
            yield pb.ReportAck(sequence=await self.acks.get())

    async def hears(self, kind: str) -> Any:
        """The next message of this kind; others are passed over."""
        async with asyncio.timeout(PATIENCE):
            while True:
                message = await self.heard.get()
                if message.WhichOneof("kind") == kind:
                    return getattr(message, kind)

    def sends(self, policy: HostPolicy) -> None:
        self.to_send.put_nowait(pb.ControllerMessage(policy=wire.host_policy_to_wire(policy)))


class Recorded(Backoff):
    """Remembers how long it made the session wait."""

    def __init__(self, first: float, most: float, chance: Callable[[], float]) -> None:
        super().__init__(first, most, chance)
        self.waits: list[float] = []

    def next(self, *, elsewhere: bool = False) -> float:
        self.waits.append(super().next(elsewhere=elsewhere))
        return self.waits[-1]


@dataclass
class Stage:
    authority: Authority
    controller: Controller
    host: FakeHost
    reports: ReportQueue
    session: Session


@asynccontextmanager
async def stage(
    controller: Controller | None = None,
    server_authority: Authority | None = None,
    now: datetime | None = None,
    end: datetime | None = None,
    backoff: Backoff | None = None,
) -> AsyncIterator[Stage]:
    authority = Authority()
    controller = controller or Controller()
    server = grpc.aio.server()
    rpc.add_AgentServicer_to_server(controller, server)
    credentials = grpc.ssl_server_credentials(
        [(server_authority or authority).server()], root_certificates=authority.pem, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    identity = authority.identity("web-1", (f"127.0.0.1:{port}",), end=end)
    host, reports = FakeHost(), ReportQueue()
    session = Session(
        identity,
        host,
        reports,
        "boot-1",
        now=lambda: now or authority.now,
        backoff=backoff or Backoff(0.02, 0.1, lambda: 0.5),
    )
    task = asyncio.create_task(session.run())
    try:
        yield Stage(authority, controller, host, reports, session)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await server.stop(None)


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)


async def test_hello_says_what_is_in_force_and_a_policy_is_proven() -> None:
    async with stage() as s:
        hello = await s.controller.hears("hello")
        assert (hello.protocol, hello.boot_id, hello.generation, hello.digest) == (PROTOCOL, "boot-1", 0, "")
        assert hello.facts.kernel == "6.18"
        s.controller.sends(POLICY)
        ack = await s.controller.hears("ack")
        assert (ack.generation, ack.digest) == (3, host_policy_digest(POLICY))
        assert (ack.kernel_digest, ack.apply_us, list(ack.notes)) == ("k" * 64, 1234, ["no user backup here"])
        assert s.session.connected_to == s.session.identity.controllers[0]


async def test_heartbeats_keep_coming() -> None:
    async with stage() as s:
        await s.controller.hears("heartbeat")
        await s.controller.hears("heartbeat")


async def test_a_silent_controller_is_left_and_tried_again() -> None:
    async with stage() as s:
        await s.controller.hears("hello")
        await s.controller.hears("hello")  # a heartbeat of 1 s: 3 s of silence are too many
        assert s.controller.sessions == 2


async def test_a_refused_policy_names_what_stays_in_force() -> None:
    async with stage() as s:
        s.controller.sends(POLICY)
        await s.controller.hears("ack")
        s.host.refuses = {4}
        s.controller.sends(replace(POLICY, generation=4))
        nack = await s.controller.hears("nack")
        assert nack.generation == 4
        assert nack.errors == ["add 9 elements to set w0_in4: the set is full"]
        assert (nack.active_generation, nack.active_digest) == (3, host_policy_digest(POLICY))


REFUSED = {
    "another host": (wire.host_policy_to_wire(replace(POLICY, host="db-1")), "for the host 'db-1', this is 'web-1'"),
    "older": (wire.host_policy_to_wire(replace(POLICY, generation=2)), "generation 2 is older than 3"),
}


@pytest.mark.parametrize("name", [*REFUSED, "digest"])
async def test_policies_that_never_reach_the_kernel(name: str) -> None:
    async with stage() as s:
        s.controller.sends(POLICY)
        await s.controller.hears("ack")
        if name == "digest":
            message, reason = wire.host_policy_to_wire(replace(POLICY, generation=4)), "digest"
            message.generation = 5
        else:
            message, reason = REFUSED[name]
        s.controller.to_send.put_nowait(pb.ControllerMessage(policy=message))
        nack = await s.controller.hears("nack")
        assert reason in nack.errors[0]
        assert s.host.applied == [3]


async def test_chunks_make_one_policy() -> None:
    async with stage() as s:
        content = wire.host_policy_to_wire(POLICY).SerializeToString()
        parts = [content[i : i + 7] for i in range(0, len(content), 7)]
        for number, part in enumerate(parts, 1):
            chunk = pb.Chunk(data=part, more=number < len(parts))
            s.controller.to_send.put_nowait(pb.ControllerMessage(chunk=chunk))
        assert (await s.controller.hears("ack")).generation == 3


async def test_chunks_of_nonsense_end_the_session() -> None:
    async with stage() as s:
        await s.controller.hears("hello")
        s.controller.to_send.put_nowait(pb.ControllerMessage(chunk=pb.Chunk(data=b"\xff" * 99)))
        await s.controller.hears("hello")
        assert s.host.applied == []


async def test_the_newest_policy_wins_while_one_is_being_applied() -> None:
    async with stage() as s:
        s.host.gate = asyncio.Event()
        for generation in (3, 4, 5, 6):
            s.controller.sends(replace(POLICY, generation=generation))
        s.controller.to_send.put_nowait(pb.ControllerMessage(probe=pb.ProbeRequest(id=1)))
        await s.controller.hears("probe")  # everything before it was read
        s.host.gate.set()
        while (await s.controller.hears("ack")).generation != 6:
            pass
        assert s.host.applied[-1] == 6
        assert len(s.host.applied) <= 2


async def test_a_probe_is_answered() -> None:
    async with stage() as s:
        s.controller.to_send.put_nowait(pb.ControllerMessage(probe=pb.ProbeRequest(id=99)))
        reply = await s.controller.hears("probe")
        assert (reply.id, reply.verdict) == (99, "allowed")


def asks(number: int, draft: bytes, *, more: bool = False) -> pb.ControllerMessage:
    return pb.ControllerMessage(impact=pb.ImpactRequest(id=number, draft=draft, more=more, limit=5))


async def test_a_draft_in_parts_is_answered_with_its_impact() -> None:
    async with stage() as s:
        await s.controller.hears("hello")
        for message in (asks(7, b"ab", more=True), asks(8, b"x", more=True), asks(7, b"cd"), asks(8, b"")):
            s.controller.to_send.put_nowait(message)
        first, second = await s.controller.hears("impact"), await s.controller.hears("impact")
        assert [(r.id, r.live, r.cut) for r in (first, second)] == [(7, 4, 5), (8, 1, 5)]


async def test_questions_that_are_too_many_are_refused_at_once() -> None:
    async with stage() as s:
        await s.controller.hears("hello")
        s.host.gate = asyncio.Event()
        for number in range(1, 6):
            s.controller.to_send.put_nowait(asks(number, b"x"))
        refused = [await s.controller.hears("impact"), await s.controller.hears("impact")]
        assert all("ask again" in reply.error for reply in refused)
        s.host.gate.set()
        answered = [await s.controller.hears("impact") for _ in range(3)]
        assert sorted(r.id for r in refused + answered) == [1, 2, 3, 4, 5]


def test_drafts_are_bounded_and_cost_no_session() -> None:
    conversation = Conversation("web-1", greeted=True)
    half = bytes(MAX_POLICY_BYTES // 2)
    assert conversation.receive(asks(1, half, more=True), InForce()) is None
    assert conversation.receive(asks(2, half, more=True), InForce()) is None
    refused = conversation.receive(asks(3, b"x", more=True), InForce())
    assert isinstance(refused, pb.ImpactReply)
    assert (refused.id, "exceeds 64 MiB" in refused.error) == (3, True)
    assert conversation.receive(asks(1, b""), InForce()) == ImpactAsked(1, half, 5)
    for number in range(10, 13):
        assert conversation.receive(asks(number, b"", more=True), InForce()) is None
    refused = conversation.receive(asks(13, b"", more=True), InForce())
    assert isinstance(refused, pb.ImpactReply)
    assert refused.error.startswith(f"{MAX_DRAFTS} drafts")


async def test_facts_follow_changes_once() -> None:
    async with stage() as s:
        await s.controller.hears("hello")
        await until(lambda: s.session.connected_to)
        s.host.kernel = "6.19"
        for _ in range(50):
            s.session.facts_changed()
        assert (await s.controller.hears("facts")).kernel == "6.19"
        s.session.facts_changed()  # and yet nothing is new
        await s.controller.hears("heartbeat")
        assert s.controller.heard.empty()


async def test_facts_that_are_dear_and_change_all_the_time_do_not_take_the_loop() -> None:
    """Any user can make ten thousand cgroups, and then one more and one less for ever."""
    async with stage() as s:
        s.host.facts_seconds = 0.05
        await s.controller.hears("hello")
        await until(lambda: s.session.connected_to)
        began, before = time.monotonic(), s.host.looks
        while (lasted := time.monotonic() - began) < 3:
            s.host.kernel = f"6.{s.host.looks}"
            s.session.facts_changed()
            await asyncio.sleep(0.01)
        assert 1 <= s.host.looks - before <= lasted * 0.05 / 0.05 + 2
        assert (await s.controller.hears("facts")).kernel.startswith("6.")


async def test_the_session_comes_back_after_the_controller_ends_it() -> None:
    async with stage() as s:
        s.controller.sends(POLICY)
        await s.controller.hears("ack")
        s.controller.to_send.put_nowait(None)
        hello = await s.controller.hears("hello")
        while hello.generation == 0:
            hello = await s.controller.hears("hello")
        assert (hello.generation, hello.digest) == (3, host_policy_digest(POLICY))


@pytest.mark.parametrize(
    ("controller", "reason"),
    [
        (Controller(host="db-1"), "takes this host for 'db-1'"),
        (Controller(protocol=PROTOCOL + 1), f"speaks protocol {PROTOCOL + 1}"),
    ],
)
async def test_a_welcome_that_does_not_fit(controller: Controller, reason: str) -> None:
    async with stage(controller) as s:
        await until(lambda: reason in s.session.problem)
        assert s.session.connected_to == ""


async def test_a_refused_session_carries_the_controllers_reason() -> None:
    controller = Controller()
    controller.refusal = "the host web-1 was removed"
    async with stage(controller) as s:
        await until(lambda: "the host web-1 was removed" in s.session.problem)


async def test_a_controller_of_another_fleet_hears_nothing() -> None:
    async with stage(server_authority=Authority("other")) as s:
        await until(lambda: "no session with the controller" in s.session.problem)
        assert s.controller.heard.empty()


async def test_an_expired_certificate_is_named_by_the_agent_itself() -> None:
    authority = Authority()
    async with stage(now=authority.now, end=authority.now - DAY / 2) as s:
        await until(lambda: "this host's certificate expired" in s.session.problem)
        assert "segctl-agent enrol --replace" in s.session.problem


async def test_reports_are_stored_before_they_are_forgotten() -> None:
    async with stage() as s:
        s.reports.add_denial(pb.Denial(workload="db", count=1))
        s.session.reports_waiting.set()
        async with asyncio.timeout(PATIENCE):
            batch = await s.controller.batches.get()
        assert batch.denials[0].workload == "db"
        assert s.reports.waiting == 1
        s.controller.acks.put_nowait(batch.sequence)
        await until(lambda: s.reports.waiting == 0)


async def test_a_broken_report_stream_sends_again_and_leaves_the_session_alone() -> None:
    async with stage() as s:
        s.controller.report_errors = [grpc.StatusCode.UNAVAILABLE]
        s.reports.add_denial(pb.Denial(workload="db", count=1))
        s.session.reports_waiting.set()
        async with asyncio.timeout(PATIENCE):
            batch = await s.controller.batches.get()
        assert (batch.sequence, batch.denials[0].workload) == (1, "db")
        assert s.controller.sessions == 1


async def test_a_refused_batch_does_not_block_the_queue_for_ever() -> None:
    async with stage() as s:
        s.controller.report_errors = [grpc.StatusCode.INVALID_ARGUMENT]
        s.reports.add_denial(pb.Denial(workload="db", count=5))
        s.session.reports_waiting.set()
        async with asyncio.timeout(PATIENCE):
            batch = await s.controller.batches.get()
        assert (batch.lost, len(batch.denials)) == (5, 0)


def test_backoff_grows_within_bounds_and_starts_anew_after_a_steady_session() -> None:
    low, high = Backoff(chance=lambda: 0.0), Backoff(chance=lambda: 1.0)
    assert [round(high.next(), 3) for _ in range(8)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert [round(low.next(), 3) for _ in range(8)] == [0.2, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    high.lasted(29.0)
    assert high.next() == pytest.approx(10.0)
    high.lasted(30.0)
    assert high.next() == pytest.approx(0.2)


def test_another_controller_is_tried_at_once_after_a_steady_session_alone() -> None:
    backoff = Backoff(chance=lambda: 0.25)
    assert backoff.next(elsewhere=True) == pytest.approx(0.05)
    assert backoff.next(elsewhere=True) == pytest.approx(0.25)  # it said no as well
    backoff.lasted(1.0)
    assert backoff.next(elsewhere=True) == pytest.approx(0.5)
    backoff.lasted(30.0)
    assert backoff.next(elsewhere=True) == pytest.approx(0.05)


async def test_sessions_that_end_at_once_do_not_come_back_at_once() -> None:
    """Two agents with one identity end each other's sessions: each must slow down, though it was greeted."""
    backoff = Recorded(0.02, 0.1, lambda: 1.0)
    async with stage(backoff=backoff) as s:
        for number in range(1, 5):
            await until(lambda wanted=number: s.controller.sessions == wanted)
            await s.controller.hears("hello")
            s.controller.to_send.put_nowait(None)
        await until(lambda: len(backoff.waits) >= 4)
    assert backoff.waits[:4] == pytest.approx([0.02, 0.04, 0.08, 0.1])


async def test_a_new_identity_opens_the_next_session_at_once() -> None:
    backoff = Recorded(5.0, 9.0, lambda: 0.5)
    async with stage(backoff=backoff) as s:
        await s.controller.hears("hello")
        await until(lambda: s.session.connected_to)
        renewed = s.authority.identity("web-1", s.session.identity.controllers)
        s.session.use(renewed)
        await s.controller.hears("hello")
        await until(lambda: s.session.connected_to)
        assert s.controller.shown[-1] == renewed.certificate != s.controller.shown[0]
        assert not backoff.waits
        assert s.session.problem == ""
        s.controller.sends(POLICY)
        await s.controller.hears("ack")


async def test_what_runs_beside_a_session_begins_anew_with_each() -> None:
    began: list[object] = []

    async def work(stub: object) -> None:
        began.append(stub)
        await asyncio.Event().wait()

    async with stage() as s:
        s.session.beside.append(work)
        await until(lambda: s.session.connected_to)
        s.session.use(s.session.identity)
        await until(lambda: began)
        s.session.use(s.session.identity)
        await until(lambda: len(began) == 2)
