"""Trials in the session: what is staged, activated, confirmed and taken back, as messages."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from segctl import wire
from segctl.model.hostpolicy import HostPolicy
from segctl.policy.digest import host_policy_digest
from segctl.proto.v1 import agent_pb2 as pb
from segctl_agent.conversation import Activation, Confirmation, InForce, NewPolicy, Withdrawal, outlived
from segctl_agent.session import Ended

from tests.unit.segctl_agent.test_session import POLICY, stage, until


def stages(policy: HostPolicy) -> pb.ControllerMessage:
    message = wire.host_policy_to_wire(policy)
    message.stage = True
    return pb.ControllerMessage(policy=message)


async def test_a_policy_is_staged_activated_and_confirmed() -> None:
    digest = host_policy_digest(POLICY)
    async with stage() as s:
        s.controller.to_send.put_nowait(stages(POLICY))
        told = await s.controller.hears("staged")
        assert (told.generation, told.digest, list(told.errors)) == (3, digest, [])
        assert s.host.current == InForce()
        s.controller.to_send.put_nowait(
            pb.ControllerMessage(activate=pb.Activate(generation=3, digest=digest, silence_seconds=9))
        )
        ack = await s.controller.hears("ack")
        assert (ack.digest, ack.stored) == (digest, False)
        s.controller.to_send.put_nowait(pb.ControllerMessage(confirm=pb.Confirm(generation=3, digest=digest)))
        ack = await s.controller.hears("ack")
        assert (ack.digest, ack.stored) == (digest, True)
        s.controller.to_send.put_nowait(
            pb.ControllerMessage(take_back=pb.TakeBack(generation=3, digest=digest, reason="too late"))
        )
        await until(lambda: len(s.host.orders) == 4)
        assert s.host.orders == [
            NewPolicy(POLICY, digest, stage=True),
            Activation(3, digest, 9),
            Confirmation(3, digest),
            Withdrawal(3, digest, "too late"),
        ]
        assert s.host.words == 4


async def test_what_the_kernel_would_refuse_is_said_when_it_is_staged() -> None:
    async with stage() as s:
        s.host.refuses.add(3)
        s.controller.to_send.put_nowait(stages(POLICY))
        told = await s.controller.hears("staged")
        assert "the set is full" in told.errors[0]


async def test_a_policy_for_another_host_is_not_staged() -> None:
    async with stage() as s:
        s.controller.to_send.put_nowait(stages(replace(POLICY, host="db-1")))
        told = await s.controller.hears("staged")
        assert "for the host 'db-1'" in told.errors[0]


async def test_a_policy_on_trial_may_be_followed_by_the_one_before_it() -> None:
    """Older than what is in force, and not older than what was confirmed: this is how a push is undone."""
    async with stage() as s:
        s.controller.sends(POLICY)
        await s.controller.hears("ack")
        s.host.current = replace(s.host.current, generation=4, digest="of the trial")
        s.controller.sends(POLICY)
        assert (await s.controller.hears("ack")).generation == 3


async def test_a_policy_that_is_refused_as_too_old_ends_the_trial_too() -> None:
    """A controller that was restored from an old copy knows nothing newer to return to."""
    async with stage() as s:
        await s.controller.hears("hello")
        await until(lambda: s.session.connected_to)
        s.host.current = InForce(18, "of the trial", "", 17)
        s.controller.sends(POLICY)
        assert "older than 17" in (await s.controller.hears("nack")).errors[0]
        await until(lambda: s.host.orders)
        [order] = s.host.orders
        assert isinstance(order, Withdrawal)
        assert (order.generation, order.digest) == (18, "of the trial")
        s.controller.to_send.put_nowait(stages(POLICY))
        assert "older than 17" in (await s.controller.hears("staged")).errors[0]
        s.host.current = InForce(17, "d", "", 17)
        s.controller.sends(POLICY)
        await s.controller.hears("nack")
        assert len(s.host.orders) == 1


async def test_a_trial_that_the_agent_took_back_is_told_now_and_in_the_next_greeting() -> None:
    async with stage() as s:
        await s.controller.hears("hello")
        s.host.took_back = Ended(4, "d4", "nothing was heard")
        s.session.trial_ended(s.host.took_back)
        told = await s.controller.hears("trial_ended")
        assert (told.generation, told.reason) == (4, "nothing was heard")
        s.controller.to_send.put_nowait(None)
        hello = await s.controller.hears("hello")
        assert (hello.trial_ended.generation, hello.trial_ended.reason) == (4, "nothing was heard")


async def test_a_change_that_is_under_way_is_in_the_next_greeting() -> None:
    """Else a controller that undid it meanwhile would not know that this host has it."""
    async with stage() as s:
        await s.controller.hears("hello")
        await s.host.changing.acquire()
        s.controller.to_send.put_nowait(None)
        await until(lambda: not s.session.connected_to)
        await asyncio.sleep(0.2)
        s.host.current = InForce(4, "d4")
        s.host.changing.release()
        assert (await s.controller.hears("hello")).generation == 4


def test_which_orders_outlive_a_newer_one() -> None:
    new, staged = NewPolicy(POLICY, "a"), NewPolicy(POLICY, "b", stage=True)
    activation, confirmation = Activation(3, "b", 9), Confirmation(2, "z")
    assert outlived([staged], activation) == [staged]
    assert outlived([confirmation, staged, activation], staged) == [confirmation]
    assert outlived([new, confirmation, staged], staged) == [new, confirmation]
    assert outlived([new, confirmation, staged, activation], new) == [staged]
    withdrawal = Withdrawal(2, "z", "too late")
    assert outlived([withdrawal, activation], staged) == [withdrawal]
    assert outlived([withdrawal, staged], new) == [staged]
