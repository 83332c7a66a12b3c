"""Ids of decisions: a flow that sends nothing keeps one that died, and must never find it alive again."""

from __future__ import annotations

from random import Random

import pytest
from segctl.errors import KernelError
from segctl_agent.decisions import Decision, Decisions, assign, turn_from_number, turn_to_number
from segctl_agent.enforcer import Enforcer
from segctl_agent.identity import Direction
from segctl_agent.nft.kernel import FakeKernel
from segctl_agent.nft.operations import Batch

from tests.unit.segctl_agent.enforcing import UID, enforcer, policy, resolve

MOST = 31
WANTED: tuple[Decision, ...] = tuple(Decision(d, w) for d in ("in", "out") for w in ("api", "db", "web"))


@pytest.mark.parametrize("seed", range(5))
def test_an_id_that_an_idle_flow_carries_is_not_given_in_any_round(seed: int) -> None:
    random = Random(seed)
    idle: list[tuple[Direction, int]] = []
    looks = []

    def in_use() -> set[tuple[Direction, int]]:
        looks.append(len(looks))
        return set(idle)

    now = assign(Decisions(), WANTED, (), MOST, in_use)
    for step in range(300):
        renewed = random.choice(WANTED)
        idle.append((renewed.direction, now.ids[renewed]))
        if len(idle) > 8:
            idle.pop(random.randrange(len(idle)))
        if step % 50 == 49:  # a restart: what is left is the turn on the disk
            now = Decisions(now.ids, turn_from_number(turn_to_number(now.turn)))
        before, now = now, assign(now, WANTED, {renewed}, MOST, in_use)
        assert (renewed.direction, now.ids[renewed]) not in idle
        assert {d: n for d, n in now.ids.items() if d != renewed} == {
            d: n for d, n in before.ids.items() if d != renewed
        }
    assert len(looks) < 300 * 2 / (MOST - 2 * 9) + 6  # once a round and a restart, not once an id


def test_in_the_first_round_nobody_looks_at_flows() -> None:
    def in_use() -> set[tuple[Direction, int]]:
        raise AssertionError("no flow can carry an id that was never given")

    now = assign(Decisions(), WANTED, (), MOST, in_use)
    for _ in range((MOST - 3) // 3):
        now = assign(now, WANTED, WANTED, MOST, in_use)


def test_when_flows_carry_every_id_it_says_so() -> None:
    every: set[tuple[Direction, int]] = {("in", n) for n in range(1, MOST + 1)}
    with pytest.raises(KernelError, match="mark-mask"):
        assign(Decisions(turn=(0, MOST)), WANTED, (), MOST, lambda: every)


def test_killed_before_new_ids_were_stored_none_of_them_is_given_again() -> None:
    """The policy was stored, then the host's addresses changed the ids of essentials twice."""
    kernel = FakeKernel()
    e = enforcer(kernel)
    stored = e.put(policy()).turn
    dead = set(e.decisions.by_id)
    for generation in (2, 3):
        e.put(policy(generation, open_to=()))
        e.put(policy(generation))
        dead |= set(e.decisions.by_id)
    restarted = enforcer(kernel)
    restarted.resume(policy(3), stored)
    for generation in (4, 5, 6):
        before = set(restarted.decisions.by_id)
        restarted.put(policy(generation, open_to=() if generation % 2 == 0 else ("a",)))
        assert not (set(restarted.decisions.by_id) - before) & dead


class AnswerLost(FakeKernel):
    """Commits a batch, and then its answer does not arrive."""

    lost = False

    def apply(self, batch: Batch) -> None:
        super().apply(batch)
        if self.lost:
            self.lost = False
            raise KernelError("no answer")


@pytest.mark.parametrize("moved", [False, True])
def test_ids_that_the_kernel_may_hold_are_not_given_again(moved: bool) -> None:
    kernel = AnswerLost()
    e = Enforcer(kernel, resolve, UID)
    e.put(policy())
    before = set(e.decisions.by_id)
    kernel.lost = True
    with pytest.raises(KernelError, match="no answer"):
        if moved:
            e.members_changed("ga", (), tuple(e.policy.groups[0].hosts) if e.policy else ())
        else:
            e.put(policy(2, open_to=()))
    tried = {key for key in _noted(kernel) if key not in before}
    assert tried
    assert set(e.decisions.by_id) == before
    e.heal()
    assert not set(e.decisions.by_id) & tried


def _noted(kernel: FakeKernel) -> set[tuple[str, int]]:
    assert kernel.content is not None
    parts = [n.split("_") for n in kernel.content.chains if n.startswith("mark_")]
    return {(p[1], int(p[2])) for p in parts}
