"""Generations on trial: what is in force, what is on disk, and what ends a trial."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Any

import pytest
from segctl.errors import KernelFullError, StateError
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Mode, PortRange
from segctl.policy.digest import host_policy_digest
from segctl_agent.agent import Agent
from segctl_agent.boot import closed_policy
from segctl_agent.conversation import Activation, Confirmation, InForce, NewPolicy, Withdrawal
from segctl_agent.decisions import turn_from_number
from segctl_agent.denials.values import Denial, ProcessInfo
from segctl_agent.facts.values import Endpoint
from segctl_agent.flows.permits import PolicyIndex
from segctl_agent.flows.values import FlowKey, FlowRow, FlowWindow, Verdict
from segctl_agent.session import Ended
from segctl_agent.state import StateFolder
from segctl_agent.trial import SeenFlows

from tests.unit.segctl_agent.test_agent import Kernel, events, make

FIVE = HostPolicy("db-1", 5, "", (LocalWorkload("host", None, Mode.ENFORCE),))
PEER = Group("g", (IPv4Network("10.0.0.0/24"),))
OPEN = Entry("rule", "g", (PortRange("tcp", 22, 22),), managed=False)
SIX = replace(
    FIVE, generation=6, policy_digest="6", groups=(PEER,), workloads=(replace(FIVE.workloads[0], ingress=(OPEN,)),)
)


def new(policy: HostPolicy, *, stage: bool = False) -> NewPolicy:
    return NewPolicy(policy, host_policy_digest(policy), stage)


def on_disk(folder: Path) -> int:
    stored = StateFolder(folder).read_generation().stored
    return stored.value.generation if stored is not None else 0


async def try_out(agent: Agent, policy: HostPolicy, silence: float = 9, *, accept: bool = False) -> None:
    await agent.stage(new(policy, stage=True))
    await agent.activate(Activation(policy.generation, host_policy_digest(policy), silence, accept))


async def test_staging_changes_nothing(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    await agent.put(new(FIVE))
    held = kernel.content
    await agent.stage(new(SIX, stage=True))
    assert kernel.content is held
    assert agent.in_force().generation == 5


async def test_what_is_on_trial_is_in_force_and_not_on_disk(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    await agent.put(new(FIVE))
    await try_out(agent, SIX)
    assert agent.in_force() == InForce(6, host_policy_digest(SIX), "", 5)
    assert agent.status == "generation 6 in force on trial"
    assert on_disk(tmp_path) == 5
    again, _ = make(tmp_path, kernel)  # the agent died
    again.start()
    assert again.in_force().generation == 5
    assert again.enforcer.policy == FIVE


async def test_ids_given_on_trial_outlive_the_process(tmp_path: Path) -> None:
    agent, _ = make(tmp_path)
    await agent.put(new(FIVE))
    await try_out(agent, SIX)
    stored = StateFolder(tmp_path).read_generation().stored
    assert stored is not None
    assert turn_from_number(stored.turn) == agent.enforcer.decisions.turn


async def test_confirmed_it_is_on_disk(tmp_path: Path) -> None:
    agent, _ = make(tmp_path)
    await agent.put(new(FIVE))
    await try_out(agent, SIX)
    proof = await agent.confirm(Confirmation(6, host_policy_digest(SIX)))
    assert proof.stored
    assert agent.in_force() == InForce(6, host_policy_digest(SIX), "", 6)
    assert on_disk(tmp_path) == 6
    assert agent.status == "generation 6 in force"


async def test_only_what_is_staged_can_be_activated_and_only_what_is_on_trial_confirmed(tmp_path: Path) -> None:
    agent, _ = make(tmp_path)
    await agent.put(new(FIVE))
    with pytest.raises(StateError, match="not staged"):
        await agent.activate(Activation(6, host_policy_digest(SIX), 9))
    with pytest.raises(StateError, match="not on trial"):
        await agent.confirm(Confirmation(6, host_policy_digest(SIX)))
    assert agent.in_force().generation == 5


async def test_a_silent_controller_ends_the_trial(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    await agent.put(new(FIVE))
    told: list[Ended] = []
    agent.generations.trial_ended = told.append
    await try_out(agent, SIX, silence=60)
    await agent.check_trial()
    assert agent.in_force().generation == 6
    agent.generations._heard -= 61
    await agent.check_trial()
    assert agent.in_force() == InForce(5, host_policy_digest(FIVE), "", 5)
    assert agent.enforcer.policy == FIVE
    assert kernel.content is not None
    assert [e.generation for e in told] == [6]
    assert agent.ended() == told[0]
    assert "nothing was heard from the controller" in events(agent)[-1].message
    await agent.put(new(replace(FIVE, generation=7)))
    assert agent.ended() is None


async def test_an_agent_that_is_stopped_leaves_no_trial_behind(tmp_path: Path) -> None:
    agent, _ = make(tmp_path)
    await agent.generations.leave()
    await agent.put(new(FIVE))
    await agent.generations.leave()
    assert agent.in_force().generation == 5
    await try_out(agent, SIX)
    await agent.generations.leave()
    assert agent.in_force().generation == 5
    assert agent.enforcer.policy == FIVE
    assert "the agent was stopped; generation 5 is in force again" in events(agent)[-1].message


async def test_a_first_generation_that_is_taken_back_leaves_nothing(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    await try_out(agent, SIX, silence=0)
    assert kernel.content is not None
    agent.generations._heard -= 1
    await agent.check_trial()
    assert kernel.content is None
    assert agent.in_force() == InForce()


async def test_the_controller_takes_back_a_first_generation(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    await try_out(agent, SIX)
    await agent.take_back(Withdrawal(5, host_policy_digest(SIX), "too late"))
    assert agent.in_force().generation == 6
    await agent.take_back(Withdrawal(6, host_policy_digest(SIX), "too late"))
    assert kernel.content is None
    assert agent.status == "no generation yet"
    assert "too late; nothing is enforced, as before" in events(agent)[-1].message


async def test_a_kernel_that_refuses_the_way_back_is_asked_again(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    await agent.put(new(FIVE))
    await try_out(agent, SIX, silence=0)
    agent.generations._heard -= 1
    kernel.refusals = [KernelFullError("no memory")]
    with pytest.raises(KernelFullError):
        await agent.check_trial()
    assert agent.in_force().generation == 6
    await agent.check_trial()
    assert agent.in_force().generation == 5


async def test_a_policy_of_the_controller_ends_the_trial_too(tmp_path: Path) -> None:
    agent, _ = make(tmp_path)
    await agent.put(new(FIVE))
    await try_out(agent, SIX)
    await agent.put(new(FIVE))
    assert agent.generations.trial is None
    assert agent.in_force().generation == 5


# Flows that passed before


def test_what_another_workload_did_is_no_matter_of_this_one() -> None:
    seen = SeenFlows()
    for of in (window("allowed", workload="web"), window("observed"), window("observed", 22, workload="web")):
        seen.note(of)
    index = PolicyIndex(SIX)
    assert seen.broken([denial(workload="web")], index, 0, 0) is None
    assert seen.broken([denial(22)], index, 0, 0) is None
    assert seen.broken([denial()], index, 0, 0) == denial()


def test_what_a_confirmed_policy_denies_did_not_pass_before_the_next() -> None:
    """Else every push after one with --accept-denials would be undone."""
    seen = SeenFlows()
    seen.note(window("observed"))
    seen.note(window("allowed", 22))
    seen.keep(PolicyIndex(SIX), 0)
    assert seen.broken([denial()], PolicyIndex(SIX), 0, 0) is None
    assert seen.broken([denial(22)], PolicyIndex(SIX), 0, 0) == denial(22)


async def test_a_denial_from_before_the_trial_is_none_of_its(tmp_path: Path) -> None:
    """It may be told a little late: what the new policy permits was denied by the one before."""
    agent, _ = make(tmp_path, Kernel())
    await agent.put(new(FIVE))
    agent.generations.seen.note(window("allowed", 22))
    before = denial(22, at_us=time.time_ns() // 1000)
    await try_out(agent, SIX)
    agent.generations.denied([before])
    await agent.check_trial()
    assert agent.in_force().generation == 6
    agent.generations.denied([denial(22)])
    await agent.check_trial()
    assert agent.in_force().generation == 5


async def test_accepted_denials_are_accepted_for_the_next_push_too(tmp_path: Path) -> None:
    agent, _ = make(tmp_path, Kernel())
    await agent.put(new(FIVE))
    agent.generations.seen.note(window("observed"))
    await try_out(agent, SIX, accept=True)
    await agent.confirm(Confirmation(6, host_policy_digest(SIX)))
    seven = replace(SIX, generation=7, policy_digest="7")
    await try_out(agent, seven)
    agent.generations.denied([denial()])
    await agent.check_trial()
    assert agent.in_force().generation == 7


def window(verdict: Verdict, port: int = 5432, workload: str = "host", answered: bool = True) -> FlowWindow:
    key = FlowKey("in", workload, ip_address("10.0.0.7").packed, 6, port, "", verdict)
    return FlowWindow(0, 1, (FlowRow(key, 1, 0, 0, 0, 1, answered),))


def denial(port: int = 5432, workload: str = "host", verdict: str = "denied", at_us: int = 2**60) -> Denial:
    process = ProcessInfo(1, "/usr/bin/db")
    return Denial(True, verdict, workload, ip_address("10.0.0.7"), "tcp", port, process, "", 1, 0, at_us, 6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "denied", "accept", "taken_back"),
    [
        (window("observed"), denial(), False, True),
        (window("observed"), denial(), True, False),
        (window("observed", workload="before"), denial(), False, True),  # a workload that is new
        (window("observed"), denial(port=5433), False, False),
        (window("observed", answered=False), denial(), False, False),  # nobody was there
        (window("observed"), denial(verdict="would-deny"), False, False),
        (window("observed"), denial(workload="?"), False, False),
        (window("would-deny"), denial(), False, False),  # it was told
        (window("allowed"), denial(), False, False),  # a rule went: that was in the plan
        (window("allowed", 22), denial(port=22), False, True),  # the rule is there, and yet it is denied
    ],
)
async def test_denials_of_what_passed_before(
    tmp_path: Path, seen: FlowWindow, denied: Denial, accept: bool, taken_back: bool
) -> None:
    agent, _ = make(tmp_path, Kernel())
    await agent.put(new(FIVE))
    agent.generations.seen.note(seen)
    await try_out(agent, SIX, accept=accept)
    agent.generations.denied([denied])
    await agent.check_trial()
    assert agent.in_force().generation == (5 if taken_back else 6)
    if taken_back:
        ended = agent.ended()
        assert ended is not None
        assert f"tcp/{denied.port} from 10.0.0.7 of workload host passed before, and is denied" in ended.reason


# What went wrong once


async def test_a_first_generation_on_trial_does_not_outlive_its_agent(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    await try_out(agent, SIX)
    again, _ = make(tmp_path, kernel)  # the agent died
    again.start()
    assert kernel.content is None
    assert again.in_force() == InForce()
    await try_out(again, SIX)
    await again.confirm(Confirmation(6, host_policy_digest(SIX)))
    assert not StateFolder(tmp_path).first_trial


async def test_a_first_generation_that_is_confirmed_stays_closed_without_a_disk(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    await try_out(agent, SIX)
    (tmp_path / "generation.0").mkdir()
    (tmp_path / "generation.1").mkdir()
    assert not (await agent.confirm(Confirmation(6, host_policy_digest(SIX)))).stored
    for slot in ("generation.0", "generation.1"):
        (tmp_path / slot).rmdir()
    again, _ = make(tmp_path, kernel)
    again.start()
    assert kernel.content is not None


async def test_a_trial_is_taken_back_whichever_of_its_policies_holds(tmp_path: Path) -> None:
    """Membership changed, and the kernel refused what followed from that: the controller knows only the last digest."""
    agent, kernel = make(tmp_path)
    await try_out(agent, SIX)
    await agent.take_back(Withdrawal(6, "the digest of what was refused", "too late"))
    assert kernel.content is None
    assert agent.generations.trial is None


async def test_a_policy_that_fails_ends_the_trial_all_the_same(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    await agent.put(new(FIVE))
    await try_out(agent, SIX)
    kernel.refusals = [KernelFullError("no memory")]
    with pytest.raises(KernelFullError):
        await agent.put(new(replace(FIVE, policy_digest="e" * 64)))
    await agent.check_trial()
    assert agent.in_force() == InForce(5, host_policy_digest(FIVE), "", 5)


async def test_a_first_generation_that_the_kernel_keeps_is_taken_back_when_it_lets(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    await try_out(agent, SIX)
    kernel.stuck = KernelFullError("no memory")
    with pytest.raises(KernelFullError):
        await agent.take_back(Withdrawal(6, host_policy_digest(SIX), "too late"))
    kernel.stuck = None
    await agent.check_trial()
    assert kernel.content is None
    assert agent.in_force() == InForce()


async def test_a_release_while_the_disk_confirms_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, kernel = make(tmp_path)
    await agent.put(new(FIVE))
    await try_out(agent, SIX)
    writing, slow = threading.Event(), threading.Event()
    write = StateFolder.write_generation

    def slowly(folder: StateFolder, *args: Any) -> None:
        writing.set()
        assert slow.wait(10)
        write(folder, *args)

    monkeypatch.setattr(StateFolder, "write_generation", slowly)
    confirming = asyncio.create_task(agent.confirm(Confirmation(6, host_policy_digest(SIX))))
    assert await asyncio.to_thread(writing.wait, 10)
    agent.folder.hold("released by root")
    agent.check_hold()
    slow.set()
    with pytest.raises(StateError, match="released"):
        await confirming
    assert kernel.content is None
    assert agent.in_force().released == "released by root"
    agent.folder.end_hold()
    agent.check_hold()
    assert agent.in_force() == InForce(6, host_policy_digest(SIX), "", 6)


async def test_a_release_that_was_brief_while_a_trial_began_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, _ = make(tmp_path)
    await agent.put(new(FIVE))
    await agent.stage(new(SIX, stage=True))
    writing, slow = threading.Event(), threading.Event()
    write = StateFolder.write_generation

    def slowly(folder: StateFolder, *args: Any) -> None:
        writing.set()
        assert slow.wait(10)
        write(folder, *args)

    with monkeypatch.context() as patch:
        patch.setattr(StateFolder, "write_generation", slowly)
        activating = asyncio.create_task(agent.activate(Activation(6, host_policy_digest(SIX), 9)))
        assert await asyncio.to_thread(writing.wait, 10)
        agent.folder.hold("released by root")
        agent.check_hold()
        patch.setattr(StateFolder, "write_generation", write)
        agent.folder.end_hold()
        agent.check_hold()
        slow.set()
        with pytest.raises(StateError, match="released"):
            await activating
    assert agent.in_force() == InForce(5, host_policy_digest(FIVE), "", 5)


async def test_ids_given_while_the_disk_writes_are_stored_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, _ = make(tmp_path)
    await agent.put(new(FIVE))
    writing, slow = threading.Event(), threading.Event()
    write = StateFolder.write_generation

    def slowly(folder: StateFolder, *args: Any) -> None:
        writing.set()
        assert slow.wait(10)
        write(folder, *args)

    monkeypatch.setattr(StateFolder, "write_generation", slowly)
    putting = asyncio.create_task(agent.put(new(replace(SIX, generation=7))))
    assert await asyncio.to_thread(writing.wait, 10)
    before = agent.enforcer.decisions.turn
    agent.controllers_changed((Endpoint(ip_address("192.0.2.1"), 7443),))
    assert agent.enforcer.decisions.turn != before
    slow.set()
    await putting
    await agent.generations.store_again()
    stored = StateFolder(tmp_path).read_generation().stored
    assert stored is not None
    assert turn_from_number(stored.turn) == agent.enforcer.decisions.turn


async def test_a_confirmation_of_something_else_ends_the_trial(tmp_path: Path) -> None:
    """Membership changed just before, and the kernel refused what followed from that."""
    agent, _ = make(tmp_path)
    await agent.put(new(FIVE))
    await try_out(agent, SIX)
    with pytest.raises(StateError, match="not on trial"):
        await agent.confirm(Confirmation(6, "the digest of what was refused"))
    await agent.check_trial()
    assert agent.in_force() == InForce(5, host_policy_digest(FIVE), "", 5)


async def test_a_host_that_was_closed_for_its_disk_is_not_opened_by_a_trial(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    for slot in ("generation.0", "generation.1"):
        (tmp_path / slot).write_bytes(b"damaged")
    agent.start()
    assert agent.status == "closed"
    await try_out(agent, SIX)
    await agent.take_back(Withdrawal(6, host_policy_digest(SIX), "too late"))
    assert kernel.content is not None
    assert agent.enforcer.policy == closed_policy("db-1")
    assert agent.in_force() == InForce()
