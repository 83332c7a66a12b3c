"""The committed recording of the shop holds every dependency with the processes of both ends, the attack, and nothing
else."""

from __future__ import annotations

import pytest

from lab.nspawn.record import TRAFFIC
from lab.recording import SHOP_TRAFFIC, RecordedFlows, read_recording
from lab.topology import load_topology
from tests.shopdependencies import ATTACK, DEPENDENCIES, PUBLIC, SERVERS, STRANGERS, Dependency

SHOP = read_recording(SHOP_TRAFFIC)
NOW_AND_THEN = {"administration": 2}
"""On how many days at least a dependency was seen between each two hosts, where it is not every day."""


def told(host: str, far: str, port: int, *, ingress: bool) -> list[RecordedFlows]:
    return [
        row
        for row in SHOP.flows
        if (row.host, row.ingress, row.port) == (host, ingress, port) and (SHOP.holder(row.remote) or STRANGERS) == far
    ]


@pytest.mark.parametrize("dependency", [*DEPENDENCIES, *ATTACK], ids=lambda one: one.name)
def test_both_ends_tell_of_it_and_of_no_other_process(dependency: Dependency) -> None:
    least = 1 if dependency in ATTACK else NOW_AND_THEN.get(dependency.name, SHOP.days)
    for source, destination in dependency.pairs():
        ends = [(destination, source, True, dependency.destination_process)]
        if source in SERVERS:
            ends.append((source, destination, False, dependency.source_process))
        for host, far, ingress, process in ends:
            rows = told(host, far, dependency.port, ingress=ingress)
            # An attack is over at once: of one connection nobody could tell the process any more.
            known = [row for row in rows if row.process == process or dependency in ATTACK]
            assert len({row.day for row in known}) >= least, (host, far, rows)
            assert {row.process for row in rows} <= {process, ""}, (host, far, rows)


def test_of_hardly_any_flow_the_process_is_not_known() -> None:
    unknown = sum(row.flows for row in SHOP.flows if not row.process)
    assert unknown <= 0.002 * sum(row.flows for row in SHOP.flows)


def test_what_no_dependency_explains_is_the_attack_of_one_day() -> None:
    rest = [row for row in SHOP.flows if not any(one.has(SHOP, row) for one in DEPENDENCIES)]
    assert [row for row in rest if not any(one.has(SHOP, row) for one in (*ATTACK, PUBLIC))] == []
    assert {row.day for row in rest} == {SHOP.attack_day}


def test_its_hosts_are_those_of_the_description() -> None:
    topology = load_topology(TRAFFIC)
    assert [(host.name, host.managed, host.tags) for host in SHOP.hosts] == [
        (host.name, host.managed, host.tags) for host in topology.hosts
    ]
    assert {host.name for host in SHOP.managed} == set(SERVERS)
    listening = {host.name: {one.port for one in host.listeners} for host in SHOP.managed}
    for dependency in DEPENDENCIES:
        assert all(dependency.port in listening[host] for host in dependency.destinations)
