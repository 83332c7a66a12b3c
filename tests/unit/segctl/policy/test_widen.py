"""What a host holds between two generations: nothing that either permits is missing."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from hypothesis import given, settings
from hypothesis import strategies as st
from segctl.model.addresses import AddressSet
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.inventory import Inventory
from segctl.model.policy import Essentials, Mode, Policy, PortRange, Process, ProcessKind
from segctl.policy.compile import compile_host
from segctl.policy.widen import may_move, moves, widen

from tests.shop import TODAY
from tests.strategies import fleets

SQL, SSH = PortRange("tcp", 5432, 5432), PortRange("tcp", 22, 22)
ONE, TWO = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")


def group(name: str, *addresses: IPv4Address) -> Group:
    return Group(name, hosts=AddressSet.of(addresses))


def entry(rule: str, name: str, *ports: PortRange, until: int = 0) -> Entry:
    return Entry(rule, name, ports, managed=True, until=until)


def policy(generation: int, *entries: Entry, groups: tuple[Group, ...] = (), mode: Mode = Mode.ENFORCE) -> HostPolicy:
    return HostPolicy("db", generation, f"d{generation}", (LocalWorkload("host", None, mode, ingress=entries),), groups)


OLD = policy(1, entry("a", "one", SQL), groups=(group("one", ONE),))


def test_both_permissions_under_the_new_number_and_the_old_mode() -> None:
    new = policy(2, entry("b", "two", SQL), groups=(group("two", TWO),), mode=Mode.OBSERVE)
    wide = widen(OLD, new)
    assert (wide.generation, wide.policy_digest) == (2, "d2")
    assert wide.workloads[0].mode is Mode.ENFORCE
    assert wide.workloads[0].ingress == (entry("a", "one", SQL), entry("b", "two", SQL))
    assert wide.groups == (group("one", ONE), group("two", TWO))


def test_a_group_with_other_members_gets_a_name_of_its_own() -> None:
    new = policy(2, entry("a", "one", SQL), groups=(group("one", TWO),))
    wide = widen(OLD, new)
    assert wide.workloads[0].ingress == (entry("a", "one", SQL), entry("a", "one_2", SQL))
    assert wide.groups == (group("one", ONE), group("one_2", TWO))


def test_what_narrows_adds_nothing() -> None:
    wider = policy(1, entry("a", "both", SQL, SSH), groups=(group("both", ONE, TWO),))
    narrower = policy(2, entry("a", "one", SQL, until=9), groups=(group("one", ONE),))
    assert widen(wider, narrower) == replace(wider, generation=2, policy_digest="d2")
    assert not moves({"db": wider}, {"db": narrower})
    assert not moves({"db": narrower}, {"db": wider})


def test_a_permission_that_ends_does_not_cover_one_that_does_not() -> None:
    ending = policy(1, entry("a", "one", SQL, until=9), groups=(group("one", ONE),))
    lasting = policy(2, entry("a", "one", SQL), groups=(group("one", ONE),))
    assert widen(ending, lasting).workloads[0].ingress == (entry("a", "one", SQL, until=9), entry("a", "one", SQL))


def test_a_workload_told_by_another_process_is_another_workload() -> None:
    api = LocalWorkload("api", Process(ProcessKind.UNIT, "api.service"), Mode.ENFORCE)
    old = replace(OLD, workloads=(api, *OLD.workloads))
    moved = replace(api, process=Process(ProcessKind.UNIT, "b.service"), ingress=(entry("b", "one", SQL),))
    assert widen(old, replace(old, generation=2, workloads=(moved, *OLD.workloads))).workloads == old.workloads


def test_it_moves_where_one_host_loses_and_another_gains() -> None:
    empty = policy(1)
    gained = policy(2, entry("a", "one", SQL), groups=(group("one", ONE),))
    lost = replace(empty, generation=2)
    assert moves({"a": OLD, "b": empty}, {"a": lost, "b": gained})
    assert not moves({"a": OLD, "b": empty}, {"a": replace(OLD, generation=2), "b": gained})
    assert not moves({"a": OLD, "b": empty}, {"a": lost, "b": lost})


def test_essentials_of_both_hold_once() -> None:
    old = replace(OLD, essentials=Essentials(rescue=(IPv4Network("10.0.0.0/24"),)))
    new = replace(
        OLD, generation=2, essentials=Essentials(rescue=(IPv4Network("10.0.0.0/8"),), rescue_ports=(SSH, SQL))
    )
    wide = widen(old, new)
    assert wide.essentials.rescue == (IPv4Network("10.0.0.0/8"),)
    assert wide.essentials.rescue_ports == (SSH, SQL)
    assert widen(old, replace(old, generation=2)).essentials == old.essentials


@st.composite
def edits(draw: st.DrawFn) -> tuple[Policy, Policy, Inventory]:
    """A fleet, and its policy with rules that went, came, or were told in other words."""
    policy, inventory = draw(fleets(max_rules=5))
    old, new = (draw(st.lists(st.sampled_from(policy.rules), unique=True)) if policy.rules else [] for _ in range(2))
    renamed = tuple(replace(rule, name=f"{rule.name}-x") for rule in new)
    return replace(policy, rules=tuple(old)), replace(policy, rules=renamed), inventory


@settings(max_examples=150, deadline=None)
@given(edits())
def test_where_nothing_may_move_nothing_moves(edit: tuple[Policy, Policy, Inventory]) -> None:
    old, new, inventory = edit
    before, after = (
        {name: compile_host(policy, inventory, name, number, "d", TODAY) for name in inventory.hosts}
        for number, policy in enumerate((old, new), 1)
    )
    assert may_move(old, new) or not moves(before, after)
