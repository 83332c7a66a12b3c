"""Containers with networks of their own: what the ruleset lets through, asked of the evaluator."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from segctl.model.hostpolicy import LocalWorkload
from segctl.model.policy import Mode, Process, ProcessKind
from segctl_agent.facts.values import ContainerFact
from segctl_agent.identity import Identity
from segctl_agent.nft.evaluate import Packet, evaluate
from segctl_agent.render.forward import HOOKS, container_owners

from tests.decided import rendered
from tests.netns.samples import CONTAINED, SHOP, SHOP_FACTS, host_workload, policy

API, OTHER, TWICE = "10.88.0.2", "10.88.0.4", "10.88.0.3"
FACTS = replace(
    SHOP_FACTS,
    containers=(
        *SHOP_FACTS.containers,
        ContainerFact("12" * 32, "batch", f"machine.slice/libpod-{'12' * 32}.scope", 74, (ip_address(OTHER),)),
    ),
)
TABLE = rendered(CONTAINED, FACTS)


def forwarded(source: str, to: str, port: int, protocol: str = "tcp", **more: object) -> str:
    packet = Packet("forward", protocol, ip_address(source), ip_address(to), port, **more)  # type: ignore[arg-type]
    return evaluate(TABLE, packet).verdict


@pytest.mark.parametrize(
    ("to", "port", "protocol", "verdict"),
    [
        ("192.0.2.1", 443, "tcp", "allowed"),  # a peer
        ("192.0.2.1", 80, "tcp", "allowed"),
        ("192.0.2.1", 53, "udp", "denied"),
        ("10.0.0.1", 443, "tcp", "denied"),  # an enrolled host is no peer
        ("10.0.0.53", 53, "udp", "allowed"),  # the declared resolver
        ("10.0.0.7", 123, "udp", "allowed"),
    ],
)
def test_what_a_container_opens(to: str, port: int, protocol: str, verdict: str) -> None:
    assert forwarded(API, to, port, protocol) == verdict


def test_a_published_port_is_the_one_that_was_dialled() -> None:
    assert forwarded("10.0.0.1", API, 80, dialled=(ip_address("10.0.0.9"), 8080)) == "allowed"
    assert forwarded("10.0.0.1", API, 8080, dialled=(ip_address("10.0.0.9"), 80)) == "denied"
    assert forwarded("10.0.0.1", API, 8080) == "allowed"
    assert forwarded("10.0.0.2", API, 8080) == "denied"
    assert forwarded("10.0.0.1", API, 8, "icmp") == "allowed"
    assert forwarded("10.0.0.1", API, 13, "icmp") == "denied"


def test_a_container_that_nothing_names_belongs_to_the_host() -> None:
    assert forwarded(OTHER, "192.0.2.1", 443) == "denied"
    assert forwarded("10.0.0.1", OTHER, 8080) == "denied"


def test_what_is_no_containers_passes_untouched() -> None:
    assert forwarded("192.0.2.1", "198.51.100.1", 25) == "allowed"


def test_what_is_not_known_on_a_container_bridge_is_closed() -> None:
    assert forwarded("10.88.0.77", "192.0.2.1", 443, interface="podman0") == "denied"
    assert forwarded("10.0.0.1", "10.88.0.77", 8080, leaves="podman0") == "denied"
    assert forwarded(TWICE, "192.0.2.1", 443) == "denied"  # claimed by two networks


def test_as_the_other_end_a_container_is_its_host() -> None:
    """`own` holds this host's address: entries with it are about its containers too."""
    packet = Packet("forward", "udp", ip_address(API), ip_address(OTHER), 8005)
    assert any(step.startswith("permits_api_out rule") and "@local4" in step for step in evaluate(TABLE, packet).trail)
    assert evaluate(TABLE, replace(packet, port=8011)).trail[-1].startswith("refuse_")


def test_a_container_is_judged_on_its_way_into_the_host_before_the_host_is() -> None:
    refused = evaluate(TABLE, Packet("in", "udp", ip_address(API), ip_address("10.0.0.9"), 9999))
    assert refused.verdict == "denied"
    assert refused.trail[0] == "chain to_host"
    assert "segctl 1 out deny api" in " ".join(refused.trail)


@pytest.mark.parametrize("sample", [SHOP, policy(host_workload(Mode.ENFORCE))])
def test_no_forwarding_is_touched_where_no_container_is_named(sample: object) -> None:
    assert not set(HOOKS) & set(rendered(sample, FACTS).chains)  # type: ignore[arg-type]


@pytest.mark.parametrize(("mode", "verdict"), [(Mode.OBSERVE, "allowed"), (Mode.TEST, "would-deny")])
def test_modes_that_let_pass(mode: Mode, verdict: str) -> None:
    workloads = tuple(replace(w, mode=mode) for w in CONTAINED.workloads)
    table = rendered(replace(CONTAINED, workloads=workloads), FACTS)
    packet = Packet("forward", "tcp", ip_address(OTHER), ip_address("192.0.2.1"), 25)
    assert evaluate(table, packet).verdict == verdict
    unknown = replace(packet, source=ip_address("10.88.0.77"), interface="podman0")
    assert evaluate(table, unknown).verdict == "allowed"


def test_a_pods_address_belongs_to_the_workload_that_is_named() -> None:
    pod = [
        ContainerFact(f"{n:064x}", name, f"machine.slice/libpod-{n:064x}.scope", 9, (ip_address("10.88.0.9"),))
        for n, name in enumerate(("pause", "api1", "sidecar"))
    ]
    facts = replace(FACTS, containers=tuple(pod))
    identity = Identity(CONTAINED, {}, pod)
    assert container_owners(facts, identity) == {ip_address("10.88.0.9"): "api"}


def test_a_container_more_is_elements_alone() -> None:
    more = ContainerFact("34" * 32, "api2", f"machine.slice/libpod-{'34' * 32}.scope", 75, (ip_address("10.88.0.9"),))
    table = rendered(CONTAINED, replace(FACTS, containers=(*FACTS.containers, more)))
    assert table.chains == TABLE.chains
    changed = {n for n, found in table.sets.items() if found != TABLE.sets[n]}
    assert changed == {"ctr4_in", "ctr4_out", "local4"}
    assert {n: s.spec for n, s in table.sets.items()} == {n: s.spec for n, s in TABLE.sets.items()}


def test_workloads_of_any_kind_may_hold_containers() -> None:
    """A cgroup pattern goes before the name, and its workload then is the container's."""
    by_path = LocalWorkload("path", Process(ProcessKind.CGROUP, "machine.slice/*"), Mode.ENFORCE)
    wanted = policy(*CONTAINED.workloads, by_path, groups=CONTAINED.groups)
    owners = container_owners(FACTS, Identity(wanted, {}, FACTS.containers))
    assert owners[ip_address(API)] == "path"
    assert "f_path_out" in rendered(wanted, FACTS).chains
