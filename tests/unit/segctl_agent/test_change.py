"""What counts as taking away. Everything that is not plainly an addition must."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from segctl.model.addresses import AddressSet
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Essentials, Mode, PortRange, Process, ProcessKind
from segctl_agent.change import Turnover, decisions_with, members_moved, narrowed
from segctl_agent.decisions import ESSENTIALS, Decision, needed

A, B = ip_network("10.0.0.1/32"), ip_network("10.0.0.2/32")
OFFICE = ip_network("203.0.113.0/24")
MANAGED = ip_address("203.0.113.9")
SQL, RANGE = PortRange("tcp", 5432, 5432), PortRange("tcp", 8000, 8100)
ENTRY = Entry("web-to-db", "g1", (SQL,), managed=True)
UNIT = Process(ProcessKind.UNIT, "db.service")
BASE = HostPolicy(
    host="db-1",
    generation=3,
    policy_digest="d",
    workloads=(
        LocalWorkload("db", UNIT, Mode.ENFORCE, ingress=(ENTRY,)),
        LocalWorkload("host", None, Mode.TEST),
    ),
    groups=(Group("g1", (A,)), Group("office", (OFFICE,))),
    managed=AddressSet.of([MANAGED]),
    essentials=Essentials(dns=(A,), rescue=(OFFICE,)),
)


def with_db(**changes: object) -> HostPolicy:
    return replace(BASE, workloads=(replace(BASE.workloads[0], **changes), BASE.workloads[1]))  # type: ignore[arg-type]


ADDITIONS = {
    "nothing": BASE,
    "generation": replace(BASE, generation=4, policy_digest="e"),
    "one more entry": with_db(ingress=(ENTRY, Entry("admin", "office", (RANGE,), managed=False))),
    "egress opened": with_db(egress=(ENTRY,)),
    "one more address": replace(BASE, groups=(Group("g1", (A, B)), BASE.groups[1])),
    "wider ports": with_db(ingress=(replace(ENTRY, ports=(PortRange("tcp", 5000, 6000),)),)),
    "another rule's name": with_db(ingress=(replace(ENTRY, rule="other"),)),
    "weaker mode": with_db(mode=Mode.OBSERVE),
    "one more essential": replace(BASE, essentials=Essentials(dns=(A, B), rescue=(OFFICE,))),
    "no more managed": replace(BASE, managed=AddressSet()),
}
IN_DB, OUT_DB, IN_HOST, OUT_HOST = (Decision(d, w) for w in ("db", "host") for d in ("in", "out"))
PASSING = frozenset({Decision("in", ESSENTIALS), Decision("out", ESSENTIALS)})
EVERYTHING = None
REMOVALS: dict[str, tuple[HostPolicy, frozenset[Decision] | None]] = {
    "entry gone": (with_db(ingress=()), frozenset({IN_DB})),
    "address gone": (replace(BASE, groups=(Group("g1", (B,)), BASE.groups[1])), frozenset({IN_DB})),
    "group gone": (with_db(ingress=(replace(ENTRY, group="office"),)), frozenset({IN_DB})),
    "no longer for managed hosts": (with_db(ingress=(replace(ENTRY, managed=False),)), frozenset({IN_DB})),
    "other port": (with_db(ingress=(replace(ENTRY, ports=(RANGE,)),)), frozenset({IN_DB})),
    "other protocol": (
        with_db(ingress=(replace(ENTRY, ports=(PortRange("udp", 5432, 5432),)),)),
        frozenset({IN_DB}),
    ),
    "moved to egress": (with_db(ingress=(), egress=(ENTRY,)), frozenset({IN_DB})),
    "now with an end": (with_db(ingress=(replace(ENTRY, until=2_000_000_000),)), frozenset({IN_DB})),
    "other process": (with_db(process=Process(ProcessKind.UNIT, "other.service")), EVERYTHING),
    "stricter mode": (
        replace(BASE, workloads=(BASE.workloads[0], replace(BASE.workloads[1], mode=Mode.ENFORCE))),
        frozenset({IN_HOST, OUT_HOST}),
    ),
    "workload gone": (replace(BASE, workloads=BASE.workloads[1:]), EVERYTHING),
    "workload new": (
        replace(BASE, workloads=(LocalWorkload("a", UNIT, Mode.OBSERVE), *BASE.workloads)),
        EVERYTHING,
    ),
    "workload renamed": (with_db(name="dc"), EVERYTHING),
    "rescue gone": (replace(BASE, essentials=Essentials(dns=(A,))), PASSING),
    "dns gone": (replace(BASE, essentials=Essentials(rescue=(OFFICE,))), PASSING),
    "rescue port changed": (
        replace(BASE, essentials=replace(BASE.essentials, rescue_ports=(PortRange("tcp", 2222, 2222),))),
        PASSING,
    ),
    "another host": (replace(BASE, host="db-2"), EVERYTHING),
}


@pytest.mark.parametrize("name", ADDITIONS)
def test_additions(name: str) -> None:
    assert narrowed(BASE, ADDITIONS[name]) == frozenset()


@pytest.mark.parametrize("name", REMOVALS)
def test_removals_name_the_decisions_that_lose(name: str) -> None:
    policy, expected = REMOVALS[name]
    assert narrowed(BASE, policy) == (frozenset(needed(policy)) if expected is EVERYTHING else expected)


def test_an_enrolled_address_more_takes_from_what_peers_are_permitted() -> None:
    peer = Entry("office", "office", (RANGE,), managed=False)
    old = with_db(ingress=(ENTRY,), egress=(peer,))
    new = replace(old, managed=old.managed.changed([ip_address("203.0.113.10")]))
    assert narrowed(old, new) == {OUT_DB}
    assert narrowed(new, old) == frozenset()


def test_ntp_gone() -> None:
    with_ntp = replace(BASE, essentials=replace(BASE.essentials, ntp=(B,)))
    assert narrowed(BASE, with_ntp) == frozenset()
    assert narrowed(with_ntp, BASE) == PASSING


def test_only_members_moved() -> None:
    moved = replace(BASE, generation=9, groups=(Group("g1", (A, B)), BASE.groups[1]))
    found = members_moved(BASE, moved)
    assert found is not None
    assert found == {"g1": Turnover(BASE.groups[0].hosts, (B.network_address,), ())}
    assert members_moved(BASE, with_db(egress=(ENTRY,))) is None
    assert members_moved(BASE, replace(BASE, groups=(BASE.groups[0], Group("office", ())))) is None
    assert decisions_with(BASE, "g1") == {IN_DB}
