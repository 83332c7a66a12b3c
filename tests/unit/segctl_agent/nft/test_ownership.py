"""Which flags our table is to have, on which kernel; and that a takeover never leaves the host without the policy."""

from __future__ import annotations

import errno

import pytest
from segctl_agent.nft.attributes import attributes, text
from segctl_agent.nft.fake import FakeKernel
from segctl_agent.nft.handover import STANDBY, handover
from segctl_agent.nft.operations import Batch, Operation
from segctl_agent.nft.ownership import (
    DORMANT,
    GUARDED,
    OWNER,
    PERSIST,
    TableGuard,
    TableState,
    answer_is_yes,
    deviation,
    flags_to_write,
    guard_in_force,
)
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import TABLE

from tests.decided import rendered
from tests.netns.samples import SHOP, SHOP_FACTS

PORT = 4711


@pytest.mark.parametrize(
    ("flags", "guarded", "written", "wrong"),
    [
        (0, True, 0, 0),
        (DORMANT, True, 0, DORMANT),
        (PERSIST, True, GUARDED, OWNER),
        (PERSIST | DORMANT, True, GUARDED, OWNER | DORMANT),
        (GUARDED, True, GUARDED, 0),
        (0, False, 0, 0),
        (DORMANT, False, 0, DORMANT),
        (PERSIST, False, PERSIST, 0),
        (PERSIST | DORMANT, False, PERSIST, DORMANT),
        (GUARDED, False, PERSIST, 0),
    ],
)
def test_a_table_gets_the_flags_that_the_kernel_lets_it_have(
    flags: int, guarded: bool, written: int, wrong: int
) -> None:
    state = TableState(flags, PORT if flags & OWNER else 0)
    assert (flags_to_write(state, guarded), deviation(state, guarded)) == (written, wrong)


def test_a_new_table_is_owned_where_the_kernel_has_it() -> None:
    assert (flags_to_write(None, guarded=True), flags_to_write(None, guarded=False)) == (GUARDED, 0)


@pytest.mark.parametrize(
    ("position", "code", "has_it"),
    [
        (0, errno.EOPNOTSUPP, False),
        (0, errno.EINVAL, False),
        (1, errno.ENOENT, True),
        (0, errno.EPERM, True),  # of something else: the first write says of what
    ],
)
def test_an_old_kernel_refuses_the_flags_and_a_new_one_only_what_is_impossible(
    position: int, code: int, has_it: bool
) -> None:
    assert answer_is_yes(position, code) is has_it


def test_how_the_table_is_guarded_is_told_with_the_reason() -> None:
    ours = TableState(GUARDED, PORT)
    assert guard_in_force(TableGuard.AUTO, True, ours, PORT) == ("owned", "")
    assert guard_in_force(TableGuard.AUTO, True, None, PORT) == ("owned", "")
    for guard, why in (
        (guard_in_force(TableGuard.WATCH, False, ours, PORT), "--table-guard watch"),
        (guard_in_force(TableGuard.AUTO, False, TableState(0), PORT), "Linux 6.9"),
        (guard_in_force(TableGuard.AUTO, True, TableState(0), PORT), "without an owner"),
    ):
        assert guard[0] == "watched"
        assert why in guard[1]


@pytest.mark.parametrize("leftover", [False, True])
def test_one_of_the_two_tables_is_the_whole_policy_after_every_step_of_a_takeover(leftover: bool) -> None:
    held = rendered(SHOP, SHOP_FACTS, 1)
    kernels = {TABLE: FakeKernel(), STANDBY: FakeKernel()}
    for name, there in ((TABLE, True), (STANDBY, leftover)):
        kernels[name].apply(plan(None, held) if there else Batch())
    for messages in handover(held, leftover):
        operations: list[Operation] = []
        for message in messages:  # an operation may take several messages
            if not operations or operations[-1] is not message.about:
                operations.append(message.about)
        (name,) = {text(dict(attributes(m.payload))[1]) for m in messages}
        kernels[name].apply(Batch(tuple(operations)))
        assert held in [k.content for k in kernels.values()]
    assert (kernels[TABLE].content, kernels[STANDBY].content) == (held, None)
