"""The decision core on a kernel of dictionaries: every way leads to the state of a fresh render."""

from __future__ import annotations

import itertools
import struct
import sys
from dataclasses import replace
from ipaddress import ip_address

import pytest
from segctl.errors import KernelError, KernelFullError
from segctl.model.policy import Mode
from segctl_agent.decisions import Decision, Decisions, assign, turn_from_number, turn_to_number
from segctl_agent.enforcer import Enforcer
from segctl_agent.identity import Direction
from segctl_agent.nft.digest import RulesetDigest
from segctl_agent.nft.kernel import FakeKernel
from segctl_agent.nft.operations import AddChain, AddElements, Batch, DeleteElements, DeleteTable
from segctl_agent.nft.ruleset import Chain, Ruleset, goto
from segctl_agent.render import cgroup_map

from tests.unit.segctl_agent.enforcing import (
    CONTROLLER,
    UID,
    USERS,
    BrokenKernel,
    enforcer,
    fresh,
    ids,
    policy,
    resolve,
)


def test_the_first_policy_is_proven() -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    applied = e.put(policy())
    assert kernel.content == fresh(e)
    assert applied.kernel_digest == RulesetDigest().of(fresh(e))
    assert applied.notes == ()
    assert ids(kernel) == {d: n for d, n in e.decisions.ids.items() if d.lives}
    assert applied.turn == e.decisions.turn


def test_additions_keep_every_id_and_a_narrowing_renews_those_of_what_it_narrows() -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    steps = [
        (policy(1, open_to=("a",)), set()),
        (policy(2, open_to=("a", "b")), set()),
        (policy(3, open_to=("b",)), {Decision("in", "db")}),
        (policy(4, open_to=("b",), mode=Mode.TEST), set()),
        (policy(5, open_to=("b",), mode=Mode.ENFORCE), {Decision("in", "db"), Decision("out", "db")}),
        (policy(5, open_to=("b",), mode=Mode.ENFORCE), set()),
    ]
    e.put(steps[0][0])
    for wanted, renewed in steps[1:]:
        before = ids(kernel)
        applied = e.put(wanted)
        assert {d for d, n in ids(kernel).items() if before[d] != n} == renewed
        assert applied.narrowed == bool(renewed)


def test_an_id_that_is_given_was_not_live_before() -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    e.put(policy(1, open_to=("a", "b")))
    given = set(e.decisions.by_id)
    for n in range(2, 40):
        before = set(e.decisions.by_id)
        e.put(policy(n, open_to=("a", "b") if n % 2 else ("b",)))
        assert not (set(e.decisions.by_id) - before) & given
        given |= set(e.decisions.by_id)


def test_a_member_more_or_less_is_an_element_and_no_more() -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    e.put(policy(1))
    before, batches = ids(kernel), len(kernel.batches)
    e.members_changed("ga", [ip_address("10.0.0.77")], [])
    (batch,) = kernel.batches[batches:]
    assert [type(o) for o in batch.operations] == [AddElements, AddElements]  # in of db, out of web
    assert ids(kernel) == before
    assert kernel.content == fresh(e) == e.wanted
    assert e.in_step()
    e.members_changed("ga", [], [ip_address("10.0.0.77")])
    assert kernel.content == fresh(e) == e.wanted
    changed = {d for d, n in ids(kernel).items() if before[d] != n}
    assert changed == {Decision("in", "db"), Decision("out", "web")}
    assert e.put(policy(2)).kernel_digest == RulesetDigest().of(fresh(e))


def test_a_user_that_gets_another_uid_renews_every_id() -> None:
    kernel = FakeKernel()
    users = dict(USERS)
    e = Enforcer(kernel, lambda names: {n: users[n] for n in names if n in users}, UID)
    e.put(policy(1, user="backup"))
    users["backup"] = 1600
    before = ids(kernel)
    e.put(policy(2, user="backup"))
    assert all(n != before[d] for d, n in ids(kernel).items())


def test_an_unknown_user_is_noted() -> None:
    notes = enforcer(FakeKernel()).put(policy(user="nobody-here")).notes
    assert len(notes) == 1
    assert "workload user" in notes[0]
    assert "'nobody-here'" in notes[0]


def test_cgroups_come_and_go_by_elements_alone_and_keep_the_ids() -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    e.cgroups_changed({"system.slice": 10}, {})
    e.put(policy())
    before, known = len(kernel.batches), ids(kernel)
    e.cgroups_changed({"system.slice/db.service": 42}, {})
    e.cgroups_changed({"system.slice/db.service": 43}, {"system.slice/db.service": 42})
    e.cgroups_changed({}, {"system.slice/db.service": 43})
    assert [len(b.operations) for b in kernel.batches[before:]] == [2, 2]
    assert all(isinstance(o, AddElements | DeleteElements) for b in kernel.batches[before:] for o in b.operations)
    assert ids(kernel) == known
    assert kernel.content == fresh(e) == e.wanted
    assert e.in_step()


def test_the_newest_cgroups_that_are_gone_keep_their_elements() -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    e.cgroups_changed({"system.slice": 10}, {})
    e.put(policy())
    path = "system.slice/db.service"
    e.cgroups_changed({path: 1000}, {})
    for number in range(1000, 1300):
        e.cgroups_changed({path: number + 1}, {path: number})
    assert kernel.content is not None
    held = {int.from_bytes(k, sys.byteorder) for k in kernel.content.sets["cg2_in"].elements}
    assert held == set(range(1300 - 256, 1301))
    assert kernel.content == fresh(e)


def test_a_map_of_cgroups_grows_when_it_is_full() -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    e.put(policy())
    small = e.wanted.sets["cg2_in"].spec.size
    before = ids(kernel)
    for number in range(100, 100 + 2 * small):
        e.cgroups_changed({f"system.slice/u{number}.service": number}, {})
    assert kernel.content == fresh(e) == e.wanted
    assert e.wanted.sets["cg2_in"].spec.size >= 2 * small
    assert ids(kernel) == before


def test_a_cgroup_below_a_unit_changes_nothing() -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    e.cgroups_changed({"system.slice": 10, "system.slice/db.service": 42}, {})
    e.put(policy())
    before = len(kernel.batches)
    e.cgroups_changed({"system.slice/db.service/worker": 77}, {})
    assert len(kernel.batches) == before


# Restarts


def test_a_restart_with_the_same_policy_changes_nothing() -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    e.put(policy(1))
    e.put(policy(2, open_to=()))
    before, content = len(kernel.batches), kernel.content
    restarted = enforcer(kernel)
    assert restarted.resume(policy(2, open_to=()), e.decisions.turn).turn == e.decisions.turn
    assert kernel.content == content
    assert len(kernel.batches) == before


def test_cgroups_that_changed_while_the_agent_was_away_keep_the_ids() -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    e.cgroups_changed({"system.slice/db.service": 42}, {})
    e.put(policy())
    restarted = enforcer(kernel)
    restarted.cgroups_changed({"system.slice/db.service": 99}, {})
    assert not restarted.resume(policy(), e.decisions.turn).narrowed
    assert restarted.decisions == e.decisions
    assert kernel.content == fresh(restarted)


def test_killed_between_applying_and_storing_never_reuses_an_id() -> None:
    """The kernel holds generation 2, the disk 1 and the ids given until then: flows of 2 must be judged anew."""
    kernel = FakeKernel()
    e = enforcer(kernel)
    stored = e.put(policy(1)).turn
    e.put(policy(2, open_to=("office",)))
    before = set(e.decisions.by_id)
    restarted = enforcer(kernel)
    restarted.resume(policy(1), stored)
    assert not before & {(d.direction, n) for d, n in ids(kernel).items()}
    assert kernel.content == fresh(restarted)


def test_ids_that_were_given_and_not_stored_before_a_kill_are_not_given_again_to_flows_that_carry_them() -> None:
    """A table that was healed gives ids, and the disk hears of them some seconds later."""
    kernel = FakeKernel()
    e = enforcer(kernel)
    stored = e.put(policy()).turn
    for _ in range(3):
        kernel.apply(Batch((AddChain("evil"),)))
        e.heal()
    dead = max(n for d, n in e.decisions.ids.items() if d.direction == "in")
    kernel.apply(Batch((AddChain("evil"),)))
    e.heal()
    restarted = Enforcer(kernel, resolve, UID, in_use=lambda: {("in", n) for n in range(stored[1] + 1, dead + 1)})
    restarted.resume(policy(), stored)
    before = set(restarted.decisions.by_id)
    restarted.put(policy(2, open_to=()))
    fresh_ids = {n for d, n in set(restarted.decisions.by_id) - before if d == "in"}
    assert fresh_ids
    assert min(fresh_ids) > dead


def test_from_the_second_round_on_an_id_that_a_flow_carries_is_never_given() -> None:
    """Not in the call that comes round alone: all ids before were some flow's once."""
    decision, most = Decision("in", "db"), 20
    on_flows: set[tuple[Direction, int]] = {("in", 3), ("in", 7), ("in", 8)}
    now, given, asked = assign(Decisions(), [decision], (), most), list[int](), list[int]()

    def carried() -> set[tuple[Direction, int]]:
        asked.append(1)
        return on_flows

    for _ in range(3 * most):
        now = assign(now, [decision], [decision], most, carried)
        given.append(now.ids[decision])
        now = replace(now, turn=turn_from_number(turn_to_number(now.turn)))
    assert set(given[most - 1 :]) == set(range(1, most + 1)) - {3, 7, 8}
    assert all(a != b for a, b in itertools.pairwise(given))
    assert len(asked) == 3  # once a round: a dump of conntrack takes its time
    again = assign(replace(now, avoid=None), [decision], [decision], most, lambda: {("in", n) for n in range(1, 20)})
    assert again.ids[decision] == most  # after a restart it is asked at once


def test_an_id_that_died_in_this_round_is_not_given_in_it() -> None:
    """It was live when the round began, so flows that nobody has seen then carry it now."""
    old, new, most = Decision("in", "old"), Decision("in", "new"), 20
    now = replace(assign(Decisions(turn=(0, 12)), [old], (), most), turn=(0, most))  # 13 lives, and round it goes
    now = assign(now, [old, new], (), most)
    given = set()
    for _ in range(most // 2 + 3):
        now = assign(now, [new], [new], most)
        given.add(now.ids[new])
    assert 13 not in given
    assert {12, 14} <= given


def test_a_boot_without_a_table_gives_ids_after_the_stored_ones_that_no_flow_carries() -> None:
    kernel = FakeKernel()
    e = Enforcer(kernel, resolve, UID, in_use=lambda: {("in", 9), ("out", 1)})
    e.resume(policy(), (4094, 7))
    given = set(e.decisions.by_id)
    assert {("in", 8), ("out", 4095), ("out", 2)} <= given
    assert not {("in", 9), ("out", 1)} & given


@pytest.mark.parametrize("content", [Ruleset(), Ruleset(chains={"input": Chain(), "junk": Chain()}, flags=1)])
def test_a_foreign_table_of_our_name_is_replaced(content: Ruleset) -> None:
    kernel = FakeKernel(content)
    e = enforcer(kernel)
    e.resume(policy(), (7, 7))
    assert min(n for _, n in e.decisions.by_id) == 8
    assert kernel.content == fresh(e)


def test_adopting_keeps_what_there_is_and_heals_to_it() -> None:
    kernel = FakeKernel()
    assert not enforcer(kernel).adopt()
    enforcer(kernel).put(policy())
    content = kernel.content
    e = enforcer(kernel)
    assert e.adopt()
    kernel.apply(Batch((DeleteTable(),)))
    assert e.heal() == ("the table is gone",)
    assert kernel.content == content
    before = ids(kernel)
    e.put(policy(2))  # nobody knows which policy was in force: every flow is judged anew
    assert all(n != before[d] for d, n in ids(kernel).items())


# Failures


def test_a_refused_policy_leaves_the_old_one_and_its_ids() -> None:
    kernel = BrokenKernel()
    e = enforcer(kernel)
    e.put(policy(1))
    content = kernel.content
    kernel.refusals = [KernelFullError("add 9 elements to set w0_in4: the set is full")]
    with pytest.raises(KernelFullError):
        e.put(policy(2, open_to=()))
    assert kernel.content == content == e.wanted
    assert e.policy == policy(1)
    assert e.in_step()
    e.put(policy(2, open_to=()))
    assert kernel.content == fresh(e)


def test_someone_who_writes_in_between_is_overruled_before_it_is_proven() -> None:
    kernel = BrokenKernel()
    kernel.meddlers = [kernel.spoil, kernel.spoil]
    e = enforcer(kernel)
    e.put(policy(1))
    assert kernel.content == fresh(e)


def test_what_cannot_be_proven_is_an_error_and_the_old_policy_comes_back_under_new_ids() -> None:
    kernel = BrokenKernel()
    e = enforcer(kernel)
    e.put(policy(1))
    kernel.meddlers = [kernel.spoil] * 4
    before = ids(kernel)
    with pytest.raises(KernelError, match="chain junk was added"):
        e.put(policy(2, open_to=()))
    assert e.policy == policy(1)
    assert all(n != before[d] for d, n in ids(kernel).items())  # those of the attempt may be on flows already
    assert kernel.content == fresh(e)


def test_elements_that_the_kernel_refused_are_there_after_healing() -> None:
    kernel = BrokenKernel()
    e = enforcer(kernel)
    e.put(policy())
    kernel.refusals = [KernelError("no")]
    with pytest.raises(KernelError):
        e.cgroups_changed({"system.slice/db.service": 42}, {})
    assert not e.in_step()
    assert e.heal() == ("the elements of set cg2_in were changed", "the elements of set cg2_out were changed")
    assert kernel.content == fresh(e)


@pytest.mark.parametrize("change", ["controllers", "a map that grows", "what was undone"])
def test_what_facts_change_is_made_up_for_when_the_kernel_refused_it(change: str) -> None:
    """Nobody tells an address twice: without this, a moved controller would be shut out for good."""
    kernel = BrokenKernel()
    e = enforcer(kernel)
    e.put(policy())
    if change == "what was undone":
        kernel.meddlers = [kernel.spoil]
        e.put(policy(2, open_to=("a", "b")))
    before = ids(kernel)
    kernel.refusals = [KernelError("no")] * 2
    with pytest.raises(KernelError):
        if change == "controllers":
            e.controllers_changed((CONTROLLER,))
        elif change == "a map that grows":
            e.cgroups_changed({f"system.slice/u{n}.service": n for n in range(100, 1000)}, {})
        else:
            e.heal()
    with pytest.raises(KernelError):
        e.heal()
    assert e.heal() == (("chain junk was added",) if change == "what was undone" else ())
    assert kernel.content == fresh(e) == e.wanted
    assert all(n != before[d] for d, n in ids(kernel).items())
    assert e.in_step()


# Tampering


def test_a_deleted_table_is_back_under_the_same_ids() -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    e.put(policy())
    before = ids(kernel)
    kernel.apply(Batch((DeleteTable(),)))
    assert e.heal() == ("the table is gone",)
    assert kernel.content == fresh(e)
    assert ids(kernel) == before
    assert e.in_step()
    assert e.heal() == ()


def test_a_foreign_rule_is_gone_and_the_flows_it_let_pass_are_judged_anew() -> None:
    kernel = BrokenKernel()
    e = enforcer(kernel)
    e.put(policy())
    before = ids(kernel)
    kernel.spoil()
    assert e.heal() == ("chain junk was added",)
    assert kernel.content == fresh(e)
    assert all(n != before[d] for d, n in ids(kernel).items())


def test_a_cgroup_that_was_given_to_another_workload_is_judged_anew() -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    e.put(policy())
    e.cgroups_changed({"system.slice/db.service": 42}, {})
    key, before = struct.pack("=Q", 43), ids(kernel)
    kernel.apply(Batch((AddElements("cg2_out", cgroup_map(0), {key: goto("w_db_out")}),)))
    assert e.heal() == ("the elements of set cg2_out were changed",)
    assert kernel.content == fresh(e)
    assert all(n != before[d] for d, n in ids(kernel).items())
    before = ids(kernel)
    kernel.apply(Batch((DeleteElements("cg2_out", cgroup_map(0), (struct.pack("=Q", 42),)),)))
    assert e.heal() == ("the elements of set cg2_out were changed",)
    assert ids(kernel) == before  # one that is missing let nothing pass


def test_a_change_elsewhere_costs_no_look_at_the_table() -> None:
    kernel = BrokenKernel()
    e = enforcer(kernel)
    e.put(policy())
    kernel._generation += 1
    e.unaffected(kernel.generation())
    assert e.in_step()
    kernel._generation += 2  # one notice was not heard
    e.unaffected(kernel.generation())
    assert not e.in_step()
    assert e.heal() == ()
    assert e.in_step()


def test_addresses_and_controllers_change_the_table_only_where_they_matter() -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    assert not e.addresses_changed(frozenset({ip_address("10.0.0.9")}))
    e.put(policy())
    assert not e.addresses_changed(frozenset({ip_address("10.0.0.10")}))
    assert e.controllers_changed((CONTROLLER,))
    assert e.addresses_changed(frozenset({CONTROLLER.address}))
    assert kernel.content == fresh(e)


def test_destroy_wants_nothing_any_more() -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    e.put(policy())
    e.destroy()
    assert kernel.content is None
    assert e.heal() == ()
    e.cgroups_changed({"system.slice/db.service": 1}, {})
    assert kernel.content is None
    e.resume(policy(), (1, 1))
    assert kernel.content == fresh(e)


class MeddledKernel(FakeKernel):
    """Someone adds a chain right after each of our next `times` transactions."""

    times = 0

    def apply(self, batch: Batch) -> None:
        super().apply(batch)
        if self.times:
            self.times -= 1
            super().apply(Batch((AddChain("junk"),)))


def test_what_is_changed_while_we_prove_is_undone_told_and_flows_are_judged_anew() -> None:
    kernel = MeddledKernel()
    e = enforcer(kernel)
    e.put(policy())
    kernel.apply(Batch((DeleteTable(),)))
    before = ids(FakeKernel(fresh(e)))
    kernel.times = 1
    assert e.heal() == ("the table is gone", "chain junk was added")
    assert kernel.content == fresh(e)
    assert not set(before.items()) & set(ids(kernel).items())
    assert e.heal() == ()
    kernel.times = 1
    e.put(policy(2, open_to=("a", "b")))
    assert e.heal() == ("chain junk was added",)
    assert kernel.content == fresh(e)
