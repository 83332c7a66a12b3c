"""What counts as taking away. Everything that is not plainly an addition must."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Essentials, Mode, PortRange, Process, ProcessKind
from segctl_agent.change import next_epoch, only_adds

A, B = ip_network("10.0.0.1/32"), ip_network("10.0.0.2/32")
OFFICE = ip_network("203.0.113.0/24")
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
    managed=(ip_network("203.0.113.9/32"),),
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
    "no more managed": replace(BASE, managed=()),
}
REMOVALS = {
    "entry gone": with_db(ingress=()),
    "address gone": replace(BASE, groups=(Group("g1", (B,)), BASE.groups[1])),
    "group gone": with_db(ingress=(replace(ENTRY, group="office"),)),
    "no longer for managed hosts": with_db(ingress=(replace(ENTRY, managed=False),)),
    "other port": with_db(ingress=(replace(ENTRY, ports=(RANGE,)),)),
    "other protocol": with_db(ingress=(replace(ENTRY, ports=(PortRange("udp", 5432, 5432),)),)),
    "moved to egress": with_db(ingress=(), egress=(ENTRY,)),
    "other process": with_db(process=Process(ProcessKind.UNIT, "other.service")),
    "stricter mode": replace(BASE, workloads=(BASE.workloads[0], replace(BASE.workloads[1], mode=Mode.ENFORCE))),
    "workload gone": replace(BASE, workloads=BASE.workloads[1:]),
    "workload new": replace(BASE, workloads=(LocalWorkload("a", UNIT, Mode.OBSERVE), *BASE.workloads)),
    "workload renamed": with_db(name="dc"),
    "more managed": replace(BASE, managed=(*BASE.managed, B)),
    "rescue gone": replace(BASE, essentials=Essentials(dns=(A,))),
    "dns gone": replace(BASE, essentials=Essentials(rescue=(OFFICE,))),
    "rescue port changed": replace(
        BASE, essentials=replace(BASE.essentials, rescue_ports=(PortRange("tcp", 2222, 2222),))
    ),
    "another host": replace(BASE, host="db-2"),
}


@pytest.mark.parametrize("name", ADDITIONS)
def test_additions(name: str) -> None:
    assert only_adds(BASE, ADDITIONS[name])


@pytest.mark.parametrize("name", REMOVALS)
def test_removals(name: str) -> None:
    assert not only_adds(BASE, REMOVALS[name])


def test_ntp_gone() -> None:
    with_ntp = replace(BASE, essentials=replace(BASE.essentials, ntp=(B,)))
    assert only_adds(BASE, with_ntp)
    assert not only_adds(with_ntp, BASE)


def test_epochs_run_round_and_never_take_zero() -> None:
    seen = {1}
    epoch = 1
    for _ in range(2046):
        epoch = next_epoch(epoch)
        seen.add(epoch)
    assert seen == set(range(1, 2048))
    assert next_epoch(epoch) == 1
