"""Whatever a host is like, what its agent says of it is within the controller's bounds: a refusal would end the session
again and again, and with it every change of policy."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import Mode, Process, ProcessKind
from segctl_agent.denials.values import Denial, ProcessInfo
from segctl_agent.facts.values import ContainerFact, ListenerFact
from segctl_agent.identity import Identity
from segctl_agent.messages import MAX_ADDRESSES, denial_message, facts_message
from segctl_agent.strength import WorkloadFact, describe_identity
from segctl_controller.facts import read_claims
from segctl_controller.reports import _check

LONG = "x" * 5000


@pytest.mark.parametrize("text", [LONG, "ü" * 5000, "\udcff" * 5000])
def test_facts_at_their_longest_are_taken(text: str) -> None:
    own = [ip_address(0x0A000000 + n) for n in range(MAX_ADDRESSES + 9)]
    listeners = [ListenerFact("tcp", own[0], 80, 0, 1, text, text)] * 5000
    workloads = [WorkloadFact(text, "unit", "best-effort", text)] * 5000
    told = facts_message(own, {}, listeners, None, text, workloads)
    assert len(read_claims(told).addresses) == MAX_ADDRESSES


def test_three_containers_with_names_as_kubernetes_gives_them_do_not_end_the_session() -> None:
    containers = tuple(
        ContainerFact(
            f"{n:064x}",
            f"k8s_payments_{'p' * 90}-{n}_shop",
            f"kubepods.slice/docker-{n:064x}.scope",
            5,
            (ip_address(n),),
        )
        for n in range(1, 4)
    )
    process = Process(ProcessKind.CONTAINER, "k8s_payments_*")
    policy = HostPolicy(
        "web-1", 1, "d" * 64, (LocalWorkload("host", None, Mode.TEST), LocalWorkload("pay", process, Mode.TEST))
    )
    identity = Identity(policy, {}, containers)
    facts = describe_identity(policy, {}, {c.cgroup: 1 for c in containers}, identity, containers)
    assert max(len(f.why) for f in facts) > 500
    read_claims(facts_message([], {}, [], identity, "6.18", facts))


@pytest.mark.parametrize("text", [LONG, "ü" * 5000])
def test_a_denial_at_its_longest_is_taken(text: str) -> None:
    process = ProcessInfo(1, text, text, text, text, text)
    _check(denial_message(Denial(True, "denied", "host", ip_address("10.0.0.1"), "tcp", 80, process, text, 1, 1, 1, 1)))
