"""The agent between session, watchers and kernel, with the kernel and the controller as fakes."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path

import pytest
from segctl.errors import KernelError, KernelFullError, StateError
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Mode, PortRange, Process, ProcessKind
from segctl.policy.digest import host_policy_digest
from segctl.proto.v1 import agent_pb2 as pb
from segctl_agent.agent import LARGE_POLICY, Agent
from segctl_agent.conversation import ImpactAsked, InForce, NewPolicy
from segctl_agent.enforcer import Enforcer, ResolveUsers
from segctl_agent.execgate.targets import FILE, Target, read_targets
from segctl_agent.nft.kernel import FakeKernel
from segctl_agent.nft.operations import Batch, DeleteTable
from segctl_agent.nft.watch import TamperNotice
from segctl_agent.reports import ReportQueue
from segctl_agent.state import StateFolder
from segctl_agent.throttle import Throttle

POLICY = HostPolicy(
    host="db-1",
    generation=5,
    policy_digest="d" * 64,
    workloads=(
        LocalWorkload(
            "db",
            Process(ProcessKind.UNIT, "db.service"),
            Mode.ENFORCE,
            ingress=(Entry("web-to-db", "g1", (PortRange("tcp", 5432, 5432),), managed=True),),
        ),
        LocalWorkload("host", None, Mode.OBSERVE),
    ),
    groups=(Group("g1", (ip_network("10.0.0.1/32"),)),),
)
CULPRIT = TamperNotice(99, 4711, "iptables-nft", frozenset({"segctl"}))


class Kernel(FakeKernel):
    """Refuses the next batches, and can be made to wait in the middle of one."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals: list[KernelError] = []
        self.stuck: KernelError | None = None
        self.gate: threading.Event | None = None
        self.entered = threading.Event()

    def apply(self, batch: Batch) -> None:
        if self.gate is not None:
            self.entered.set()
            assert self.gate.wait(10)
        if self.refusals:
            raise self.refusals.pop(0)
        super().apply(batch)

    def destroy(self) -> None:
        if self.stuck is not None:
            raise self.stuck
        super().destroy()


def new(policy: HostPolicy) -> NewPolicy:
    return NewPolicy(policy, host_policy_digest(policy))


def make(folder: Path, kernel: Kernel | None = None, resolve: ResolveUsers = lambda _: {}) -> tuple[Agent, Kernel]:
    kernel = kernel or Kernel()
    return Agent(StateFolder(folder), "db-1", Enforcer(kernel, resolve, 0), ReportQueue()), kernel


def events(agent: Agent) -> list[pb.Event]:
    batch = agent.reports.next_batch()
    return list(batch.events) if batch is not None else []


async def test_a_put_is_in_force_stored_and_there_after_a_restart(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    agent.start()
    assert agent.in_force() == InForce()
    proof = await agent.put(new(POLICY))
    assert agent.in_force() == InForce(5, host_policy_digest(POLICY), "", 5)
    assert len(proof.kernel_digest) == 64
    again, _ = make(tmp_path, kernel)
    again.start()
    assert again.in_force() == agent.in_force()
    assert again.status == "generation 5 in force"
    assert again.enforcer.decisions == agent.enforcer.decisions


async def test_a_refused_put_leaves_everything_as_it_was(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    await agent.put(new(POLICY))
    kernel.refusals = [KernelFullError("the set is full")]
    with pytest.raises(KernelFullError):
        await agent.put(new(replace(POLICY, generation=6)))
    assert agent.in_force().generation == 5
    stored = StateFolder(tmp_path).read_generation().stored
    assert stored is not None
    assert stored.value == POLICY


async def test_a_disk_that_cannot_be_written_does_not_stop_enforcement(tmp_path: Path) -> None:
    folder = tmp_path / "state"  # a file where the folder should be: no write works, even for root
    folder.write_text("")
    agent, kernel = make(folder)
    await agent.put(new(POLICY))
    assert agent.in_force().generation == 5
    assert kernel.content is not None
    told = events(agent)
    assert [e.kind for e in told] == ["state"]
    assert "would not survive a reboot" in told[0].message
    await agent.generations.store_again()
    assert events(agent) == []  # told once
    folder.unlink()
    folder.mkdir()
    await agent.generations.store_again()
    stored = StateFolder(folder).read_generation().stored
    assert stored is not None
    assert stored.value == POLICY


async def test_events_during_a_large_put_wait_and_are_not_lost(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    networks = tuple(IPv4Network((0x0A000000 + n, 32)) for n in range(LARGE_POLICY))
    large = replace(POLICY, groups=(Group("g1", networks),))
    kernel.gate = threading.Event()
    putting = asyncio.create_task(agent.put(new(large)))
    assert await asyncio.to_thread(kernel.entered.wait, 10)
    assert agent.working
    agent.cgroups_changed({"system.slice": 5, "system.slice/db.service": 42}, {})
    agent.addresses_changed(frozenset({ip_address("10.0.0.5")}))
    assert agent.probe(pb.ProbeRequest(id=1)).error
    kernel.gate.set()
    await putting
    assert agent.enforcer.facts.cgroups == {"system.slice": 5, "system.slice/db.service": 42}
    assert agent.enforcer.facts.addresses == {ip_address("10.0.0.5")}
    assert kernel.content is not None
    assert (42).to_bytes(8, "little") in kernel.content.sets["cg2_in"].elements
    assert kernel.content == agent.enforcer.wanted


async def test_a_session_that_ends_does_not_cut_a_put_short(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    networks = tuple(IPv4Network((0x0A000000 + n, 32)) for n in range(LARGE_POLICY))
    kernel.gate = threading.Event()
    putting = asyncio.create_task(agent.put(new(replace(POLICY, groups=(Group("g1", networks),)))))
    assert await asyncio.to_thread(kernel.entered.wait, 10)
    putting.cancel()
    await asyncio.gather(putting, return_exceptions=True)
    kernel.gate.set()
    proof = await agent.put(new(replace(POLICY, generation=6)))  # waits for the first
    assert proof.kernel_digest
    assert agent.in_force().generation == 6
    assert kernel.content == agent.enforcer.wanted


async def test_tampering_is_healed_and_reported_with_the_culprit(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    await agent.put(new(POLICY))
    held = kernel.content
    kernel.apply(Batch((DeleteTable(),)))
    agent.changed_by(CULPRIT)
    assert kernel.content == held
    (event,) = events(agent)
    assert (event.kind, event.culprit_pid, event.culprit_name) == ("tamper", 4711, "iptables-nft")
    assert "iptables-nft (pid 4711) changed the rules: the table is gone. Healed in" in event.message


async def test_changes_of_other_tables_are_none_of_our_business(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    await agent.put(new(POLICY))
    kernel._generation += 1
    agent.changed_by(TamperNotice(kernel.generation(), 12, "dockerd", frozenset({"docker"})))
    assert agent.enforcer.in_step()
    assert events(agent) == []


async def test_a_heal_that_the_kernel_refuses_is_tried_again(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    await agent.put(new(POLICY))
    held = kernel.content
    kernel.apply(Batch((DeleteTable(),)))
    kernel.refusals = [KernelError("busy"), KernelError("busy")]
    agent.changed_by(CULPRIT)
    assert kernel.content is None
    async with asyncio.timeout(5):
        while kernel.content != held:  # noqa: ASYNC110 - a timer of the agent's
            await asyncio.sleep(0.02)
    assert [e.kind for e in events(agent)] == ["kernel", "tamper"]  # the same refusal is told once


async def test_a_fight_is_healed_at_a_bounded_rate_and_told(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    await agent.put(new(POLICY))
    heals = 0
    deadline = asyncio.get_running_loop().time() + 2.5
    while asyncio.get_running_loop().time() < deadline:
        if kernel.content is not None:
            heals += 1
            kernel.apply(Batch((DeleteTable(),)))
            agent.changed_by(CULPRIT)
        await asyncio.sleep(0.001)
    assert 20 <= heals <= 32  # ten a second
    assert sum("keeps changing the rules" in e.message for e in events(agent)) == 1


def test_the_throttle_lets_ten_a_second_pass_and_tells_of_a_fight_once_a_minute() -> None:
    throttle = Throttle()
    assert [throttle.wait(100.0) or throttle.healed(100.0) for _ in range(10)] == [False] * 10
    assert throttle.wait(100.5) == pytest.approx(0.5)
    assert throttle.wait(101.0) == 0
    assert [throttle.healed(101.0 + n) for n in range(10)] == [False] * 9 + [True]
    assert not any(throttle.healed(112.0 + n) for n in range(48))
    assert throttle.healed(171.0)


# Release


async def test_a_release_stops_enforcement_until_it_ends(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    await agent.put(new(POLICY))
    StateFolder(tmp_path).hold("released by alice")
    kernel.apply(Batch((DeleteTable(),)))
    told: list[InForce] = []
    agent.in_force_changed = lambda: told.append(agent.in_force())
    agent.changed_by(CULPRIT)
    assert kernel.content is None
    assert agent.in_force() == InForce(released="released by alice")
    again, _ = make(tmp_path, kernel)
    again.start()
    assert again.in_force() == InForce(released="released by alice")
    with pytest.raises(StateError, match=r"released by alice.*segctl-agent load"):
        await agent.put(new(replace(POLICY, generation=6)))
    agent.cgroups_changed({"system.slice": 5, "system.slice/db.service": 42}, {})
    agent.heal()
    assert kernel.content is None
    StateFolder(tmp_path).end_hold()
    agent.check_hold()
    assert kernel.content is not None
    assert agent.in_force().generation == 5
    assert told == [InForce(released="released by alice"), agent.in_force()]
    assert (42).to_bytes(8, "little") in kernel.content.sets["cg2_in"].elements
    messages = " ".join(e.message for e in events(agent))
    assert "nothing is enforced on this host now" in messages
    assert "the release of this host has ended" in messages


async def test_a_release_that_the_kernel_refuses_to_begin_or_to_end_is_tried_again(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    await agent.put(new(POLICY))
    kernel.stuck = KernelError("no memory")
    StateFolder(tmp_path).hold("released by alice")
    agent.check_hold()
    assert kernel.content is not None
    kernel.stuck = None
    agent.check_hold()
    assert kernel.content is None
    StateFolder(tmp_path).end_hold()
    kernel.refusals = [KernelFullError("no memory")]
    agent.check_hold()
    assert kernel.content is None
    assert agent.in_force() == InForce(released="released by alice")
    assert "has ended" not in " ".join(e.message for e in events(agent))
    agent.check_hold()
    assert kernel.content is not None
    assert agent.in_force().generation == 5
    assert "has ended: generation 5 in force" in " ".join(e.message for e in events(agent))


async def test_who_releases_again_replaces_reason_and_time(tmp_path: Path) -> None:
    agent, _ = make(tmp_path)
    agent.start()
    told: list[InForce] = []
    agent.in_force_changed = lambda: told.append(agent.in_force())
    for words in ("released by alice", "released by alice until noon", "released by alice until noon"):
        StateFolder(tmp_path).hold(words)
        agent.check_hold()
    assert told == [InForce(released="released by alice"), InForce(released="released by alice until noon")]
    assert agent.held == "released by alice until noon"


async def test_a_probe_of_a_released_host_says_that_everything_passes(tmp_path: Path) -> None:
    agent, _ = make(tmp_path)
    await agent.put(new(POLICY))
    StateFolder(tmp_path).hold("released by alice")
    agent.check_hold()
    request = pb.ProbeRequest(
        id=7, ingress=True, workload="db", remote=ip_address("10.0.0.2").packed, service={"protocol": "tcp"}
    )
    reply = agent.probe(request)
    assert (reply.verdict, reply.detail, reply.error) == ("allowed", "released: nothing is enforced", "")


async def test_a_release_in_the_middle_of_a_put_wins(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    networks = tuple(IPv4Network((0x0A000000 + n, 32)) for n in range(LARGE_POLICY))
    kernel.gate = threading.Event()
    putting = asyncio.create_task(agent.put(new(replace(POLICY, groups=(Group("g1", networks),)))))
    assert await asyncio.to_thread(kernel.entered.wait, 10)
    StateFolder(tmp_path).hold("released by alice")
    agent.check_hold()
    kernel.gate.set()
    with pytest.raises(StateError, match="released by alice"):
        await putting
    assert kernel.content is None
    assert agent.in_force() == InForce(released="released by alice")


async def test_rules_that_cannot_be_healed_are_no_longer_said_to_be_in_force(tmp_path: Path) -> None:
    """Else the host is open, and the operator's status says in-sync."""
    agent, kernel = make(tmp_path)
    told: list[bool] = []
    agent.in_force_changed = lambda: told.append(kernel.content is not None)
    await agent.put(new(POLICY))
    kernel.apply(Batch((DeleteTable(),)))
    kernel.refusals = [KernelError("somebody else owns the table")] * 3
    agent.changed_by(CULPRIT)
    for _ in range(200):
        await asyncio.sleep(0.02)
        if kernel.content is not None:
            break
    assert kernel.content is not None
    assert told == [False, True]


# Damaged state


async def test_both_slots_damaged_closes_a_host_without_rules(tmp_path: Path) -> None:
    for name in ("generation.0", "generation.1"):
        (tmp_path / name).write_bytes(b"junk")
    agent, kernel = make(tmp_path)
    agent.start()
    assert agent.status == "closed"
    assert kernel.content is not None
    assert agent.in_force() == InForce()
    assert "segctl-agent release" in events(agent)[0].message
    await agent.put(new(POLICY))  # the controller mends it
    assert agent.in_force().generation == 5


async def test_both_slots_damaged_leaves_rules_that_are_there(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    await agent.put(new(POLICY))
    held = kernel.content
    for name in ("generation.0", "generation.1"):
        (tmp_path / name).write_bytes(b"junk")
    again, _ = make(tmp_path, kernel)
    again.start()
    assert kernel.content == held
    assert again.in_force() == InForce()
    kernel.apply(Batch((DeleteTable(),)))
    again.changed_by(CULPRIT)
    assert kernel.content == held


async def test_the_generation_of_another_host_is_never_applied(tmp_path: Path) -> None:
    StateFolder(tmp_path).write_generation(replace(POLICY, host="web-9"), (1, 1))
    agent, kernel = make(tmp_path)
    agent.start()
    assert kernel.content is None
    assert "of the host 'web-9'" in events(agent)[0].message


# What the controller is told


async def test_facts_leave_out_what_no_host_owns_and_name_the_units_of_workloads(tmp_path: Path) -> None:
    agent, _ = make(tmp_path)
    agent.addresses_changed(frozenset(map(ip_address, ("10.0.0.7", "127.0.0.1", "::1", "fe80::1", "2001:db8::7"))))
    agent.cgroups_changed({"system.slice": 5, "system.slice/db.service": 42, "system.slice/db.service/x": 43}, {})
    assert list(agent.facts().units) == []
    assert agent.facts().table_guard == ""
    agent.table_guard = "owned"
    assert agent.facts().table_guard == "owned"
    await agent.put(new(POLICY))
    facts = agent.facts()
    assert list(facts.addresses) == [ip_address("10.0.0.7").packed, ip_address("2001:db8::7").packed]
    assert [(u.cgroup, u.workload) for u in facts.units] == [("system.slice/db.service", "db")]


@pytest.mark.parametrize(("kind", "key"), [(ProcessKind.USER, "adm"), (ProcessKind.GROUP, "group:adm")])
async def test_a_probe_speaks_for_an_owner(tmp_path: Path, kind: ProcessKind, key: str) -> None:
    """Its permission is its own: what the host may do says nothing of it."""
    known: dict[str, int] = {}
    agent, _ = make(tmp_path, resolve=lambda names: {n: known[n] for n in names if n in known})
    entry = (Entry("r", "g", (PortRange("tcp", 5432, 5432),), managed=True),)
    workloads = (
        LocalWorkload("adm", Process(kind, "adm"), Mode.ENFORCE, egress=entry),
        LocalWorkload("host", None, Mode.ENFORCE),
    )
    policy = replace(POLICY, workloads=workloads, groups=(Group("g", (ip_network("10.0.0.1/32"),)),))
    request = pb.ProbeRequest(id=7, workload="adm", remote=ip_address("10.0.0.1").packed, service={"protocol": "tcp"})
    request.service.low = request.service.high = 5432
    await agent.put(new(policy))
    assert f"knows no {kind} 'adm'" in agent.probe(request).error
    known[key] = 4
    await agent.put(new(policy))
    assert agent.probe(request).verdict == "allowed"
    request.remote = ip_address("10.0.0.2").packed
    assert agent.probe(request).verdict == "denied"
    request.ingress = True
    assert ("listener's group" in agent.probe(request).error) is (kind is ProcessKind.GROUP)


@pytest.mark.parametrize("running", [True, False])
async def test_probes_are_answered_from_the_kernel(tmp_path: Path, running: bool) -> None:
    agent, _ = make(tmp_path)
    if running:
        agent.cgroups_changed({"system.slice": 5, "system.slice/db.service": 42}, {})
    request = pb.ProbeRequest(
        id=7, ingress=True, workload="db", remote=ip_address("10.0.0.1").packed, service={"protocol": "tcp"}
    )
    request.service.low = request.service.high = 5432
    before = agent.probe(request)
    assert (before.verdict, before.detail) == ("allowed", "no generation yet: nothing is enforced")
    await agent.put(new(POLICY))
    reply = agent.probe(request)
    assert (reply.id, reply.verdict, reply.generation, reply.error) == (7, "allowed", 5, "")
    assert ("no process of it runs now" in reply.detail) is not running
    request.remote = ip_address("10.0.0.2").packed
    assert agent.probe(request).verdict == "denied"
    request.workload = "host"
    assert agent.probe(request).verdict == "allowed"
    request.workload = "nope"
    assert "no workload 'nope'" in agent.probe(request).error
    request.remote = b"abc"
    assert agent.probe(request).error


async def test_an_impact_is_answered_by_who_reads_the_connections_and_refused_without(tmp_path: Path) -> None:
    agent, _ = make(tmp_path)
    asked = ImpactAsked(7, b"draft", 3)
    refused = await agent.impact(asked)
    assert (refused.id, refused.error) == (7, "this agent cannot read its host's connections")

    async def answer(asked: ImpactAsked) -> pb.ImpactReply:
        return pb.ImpactReply(id=asked.id, live=len(asked.draft))

    agent.answer_impact = answer
    assert (await agent.impact(asked)).live == 5


async def test_the_list_of_executables_follows_the_policy_and_a_missing_gate_is_told_once(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    prog = LocalWorkload("prog", Process(ProcessKind.EXECUTABLE, "/usr/bin/prog"), Mode.ENFORCE)
    named = replace(POLICY, workloads=(*POLICY.workloads, prog))
    await agent.put(new(named))
    assert read_targets(tmp_path) == (Target("prog", "/usr/bin/prog"),)
    agent.check_gate()
    assert events(agent) == []  # a gate that starts takes a moment
    for _ in range(3):
        agent.check_gate()
    assert ["no exec gate runs on this host" in e.message for e in events(agent)] == [True]
    (tmp_path / FILE).unlink()
    again, _ = make(tmp_path, kernel)
    again.start()
    assert read_targets(tmp_path) == (Target("prog", "/usr/bin/prog"),)
    await again.put(new(replace(POLICY, generation=6)))
    assert not (tmp_path / FILE).exists()
    again.check_gate()
    again.check_gate()
    assert events(again) == []
