"""What the agent makes of changes of members."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from segctl.bodywire import delta_bytes, delta_header
from segctl.model.hostpolicy import HostPolicy
from segctl.policy.body import Body
from segctl.policy.compile import Compiler
from segctl.policy.digest import host_policy_digest
from segctl.proto.v1 import agent_pb2 as pb
from segctl.proto.v1 import hostpolicy_pb2 as hp
from segctl.wire import PROTOCOL_VERSION, host_policy_to_wire
from segctl_agent.conversation import Conversation, InForce, NewPolicy, Unfit

from tests.shop import FLEET, SHOP, TODAY


def bodies() -> list[Body]:
    """Of web1, as its database moves from address to address."""
    compiler = Compiler(SHOP, FLEET, TODAY)
    out = [compiler.body("web1")]
    for number in (7, 8):
        compiler.put(replace(FLEET.hosts["db1"], addresses=(ip_address(f"10.0.9.{number}"),)))
        out.append(compiler.body("web1"))
    return out


FIRST, SECOND, THIRD = bodies()


def policy(body: Body, generation: int = 3) -> HostPolicy:
    return body.policy("web1", generation, "d")


def change(old: Body, new: Body) -> pb.ControllerMessage:
    header = delta_header(3, *(host_policy_digest(policy(b)) for b in (old, new)))
    return pb.ControllerMessage(delta=hp.HostDelta.FromString(header + (delta_bytes(old, new) or b"")))


def conversation() -> Conversation:
    talk = Conversation("web1")
    talk.receive(pb.ControllerMessage(welcome=pb.Welcome(protocol=PROTOCOL_VERSION, host="web1")), InForce())
    return talk


def in_force(body: Body) -> InForce:
    return InForce(3, host_policy_digest(policy(body)), "", 3)


def test_a_change_of_what_is_in_force() -> None:
    made = conversation().receive(change(FIRST, SECOND), in_force(FIRST), policy(FIRST))
    assert made == NewPolicy(policy(SECOND), host_policy_digest(policy(SECOND)))


def test_changes_follow_what_was_told_before_it_is_in_force() -> None:
    """Neither the snapshot nor the first change is applied yet."""
    talk = conversation()
    talk.receive(pb.ControllerMessage(policy=host_policy_to_wire(policy(FIRST))), InForce())
    talk.receive(change(FIRST, SECOND), InForce())
    made = talk.receive(change(SECOND, THIRD), InForce())
    assert isinstance(made, NewPolicy)
    assert made.policy == policy(THIRD)


def test_what_is_kept_ready_is_nothing_to_build_upon() -> None:
    talk = conversation()
    staged = host_policy_to_wire(policy(FIRST))
    staged.stage = True
    talk.receive(pb.ControllerMessage(policy=staged), InForce())
    assert isinstance(talk.receive(change(FIRST, SECOND), InForce()), Unfit)


def test_a_change_of_something_else_is_not_applied() -> None:
    second = host_policy_digest(policy(SECOND))
    for now, held in ((InForce(), None), (in_force(THIRD), policy(THIRD)), (in_force(FIRST), None)):
        made = conversation().receive(change(FIRST, SECOND), now, held)
        assert isinstance(made, Unfit)
        assert made.digest == second


def test_what_the_kernel_holds_may_be_another_than_its_digest_says_while_it_changes() -> None:
    for change_ in (change(FIRST, SECOND), change(FIRST, FIRST)):
        assert isinstance(conversation().receive(change_, in_force(FIRST), policy(THIRD)), Unfit)


def test_a_host_that_holds_a_newer_generation_takes_no_change_of_an_older_one() -> None:
    now = replace(in_force(FIRST), confirmed=4)
    assert isinstance(conversation().receive(change(FIRST, SECOND), now, policy(FIRST)), Unfit)


def test_to_be_told_what_it_holds_is_to_prove_it() -> None:
    made = conversation().receive(change(FIRST, FIRST), in_force(FIRST), policy(FIRST))
    assert made == NewPolicy(policy(FIRST), host_policy_digest(policy(FIRST)))
