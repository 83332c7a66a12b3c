"""Which workload a socket belongs to, and which a dead id belonged to."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from segctl.model.hostpolicy import LocalWorkload
from segctl.model.policy import Mode, Process, ProcessKind
from segctl_agent.facts.sockdiag import SocketInfo
from segctl_agent.flows.decisions import RecentDecisions
from segctl_agent.flows.live import LiveFlow, ids_in_use
from segctl_agent.flows.sockets import SocketPlaces
from segctl_agent.identity import Identity

from tests.unit.segctl_agent.flows.rows import Layout, mark, policy, row

POLICY = policy(
    LocalWorkload("shop", Process(ProcessKind.UNIT, "shop.service"), Mode.ENFORCE),
    LocalWorkload("backup", Process(ProcessKind.USER, "backup"), Mode.ENFORCE),
)
PATHS = {5: "system.slice/shop.service", 6: "system.slice/cron.service", 7: "user.slice/user-34.slice", 8: ""}


def of(cgroup: int, uid: int = 0) -> SocketInfo:
    return SocketInfo("tcp", ip_address("10.0.0.1"), 5000, 1, uid, 4711, cgroup)


@pytest.mark.parametrize(
    ("direction", "cgroup", "uid", "workload"),
    [
        ("out", 5, 34, "shop"),
        ("in", 5, 34, "shop"),
        ("out", 6, 34, "backup"),  # outgoing, the owner decides where no unit does
        ("in", 6, 34, "host"),
        ("out", 6, 0, "host"),
        ("in", 7, 0, "backup"),
        ("out", 7, 0, "host"),
        ("out", 8, 0, "host"),
        ("out", 9, 0, None),
        ("out", 0, 0, None),
    ],
)
def test_a_socket_is_placed_as_the_kernel_places_it(direction, cgroup: int, uid: int, workload: str | None) -> None:
    places = SocketPlaces(lambda: Identity(POLICY, {"backup": 34}), PATHS.get)
    assert places(direction, of(cgroup, uid)) == workload
    assert SocketPlaces(lambda: None, PATHS.get)(direction, of(cgroup, uid)) is None


def test_where_the_group_might_decide_nobody_knows() -> None:
    group = LocalWorkload("deploy", Process(ProcessKind.GROUP, "deploy"), Mode.ENFORCE)
    identity = Identity(policy(*POLICY.workloads[1:], group), {"backup": 34, "group:deploy": 99})
    places = SocketPlaces(lambda: identity, PATHS.get)
    assert [places("out", of(6)), places("out", of(6, 34)), places("in", of(6)), places("out", of(5))] == [
        None,
        "backup",
        "host",
        "shop",
    ]


def test_an_id_is_remembered_until_it_is_given_again() -> None:
    decisions = RecentDecisions()
    decisions.learn({("out", 2): "shop"})
    decisions.learn({("in", 2): "host"})
    assert (decisions.workload("out", 2), decisions.workload("in", 2), decisions.workload("in", 3)) == (
        "shop",
        "host",
        None,
    )
    decisions.learn({("out", 2): "host"})
    assert decisions.workload("out", 2) == "host"


def test_the_ids_that_flows_bear() -> None:
    flow = row(
        "10.0.0.1", 5000, "10.0.0.2", 443, mark=mark(outgoing=2, incoming=9), tcp_state=7
    )  # over, and remembered
    dump = [[flow], [flow._replace(mark=mark(incoming=1)), flow._replace(mark=0)]]
    assert ids_in_use(dump, Layout()) == {("out", 2), ("in", 9), ("in", 1)}


def test_the_ends_are_those_the_local_socket_knows_under_nat() -> None:
    translated = row("10.0.0.1", 5000, "10.96.0.1", 443, mark=mark(outgoing=2, incoming=3))._replace(
        reply_source=bytes([10, 0, 0, 2]), reply_source_port=8443
    )
    client, served = LiveFlow(translated, "out", 2, False), LiveFlow(translated, "in", 3, False)
    sent = ((ip_address("10.0.0.1"), 5000), (ip_address("10.96.0.1"), 443))
    answers = ((ip_address("10.0.0.2"), 8443), (ip_address("10.0.0.1"), 5000))
    assert list(client.socket_ends()) == [sent]
    assert list(served.socket_ends()) == [answers]
    assert list(replace(served, loose=True).socket_ends()) == [answers, sent]
