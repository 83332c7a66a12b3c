"""render: what the ruleset lets through, asked of the evaluator. The kernel's answer is in tests/netns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from segctl.model.addresses import AddressSet
from segctl.model.hostpolicy import Entry, Group, LocalWorkload
from segctl.model.policy import Mode, Process, ProcessKind
from segctl_agent.denials.prefix import encode
from segctl_agent.facts.values import HostFacts
from segctl_agent.nft.evaluate import Evaluation, Packet, evaluate
from segctl_agent.nft.ruleset import KeyType
from segctl_agent.render import denied_counters, render
from segctl_agent.render.sets import network_sets, size_for

from tests.decided import decided
from tests.netns.samples import EMPTY, LOCKED, OBSERVING, SHOP, SHOP_FACTS, host_workload, networks, policy, ports

DB, NEW = (11, 12), (11, 999)


def incoming(
    source: str, port: int, cgroup: tuple[int, ...] | None = DB, protocol: str = "tcp", **more: object
) -> Packet:
    here = "10.0.0.9" if "." in source else "fd00::9"
    return Packet("in", protocol, ip_address(source), ip_address(here), port, cgroup=cgroup, **more)  # type: ignore[arg-type]


def outgoing(to: str, port: int, cgroup: tuple[int, ...] | None = DB, protocol: str = "tcp", **more: object) -> Packet:
    here = "10.0.0.9" if "." in to else "fd00::9"
    return Packet("out", protocol, ip_address(here), ip_address(to), port, cgroup=cgroup, **more)  # type: ignore[arg-type]


def shop(packet: Packet, facts: HostFacts = SHOP_FACTS) -> Evaluation:
    return evaluate(render(SHOP, facts, decided(SHOP)), packet)


@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        (incoming("10.0.0.1", 5432), "allowed"),
        (incoming("fd00::1", 5432), "allowed"),
        (incoming("10.0.0.1", 5433), "denied"),
        (incoming("10.0.0.2", 5432), "denied"),
        (incoming("10.0.0.1", 5432, protocol="udp"), "denied"),
        (incoming("10.0.0.1", 8000), "allowed"),
        (incoming("10.0.0.1", 8100), "allowed"),
        (incoming("10.0.0.1", 8101), "denied"),
        (incoming("192.0.2.77", 9100), "allowed"),
        (incoming("192.0.3.127", 9100), "allowed"),
        (incoming("192.0.3.128", 9100), "denied"),
        (incoming("198.51.100.7", 40000, protocol="udp"), "allowed"),
        (incoming("10.0.0.1", 8, None, "icmp"), "allowed"),
        (incoming("203.0.113.1", 4444, None), "allowed"),
        (outgoing("10.0.0.2", 5432), "allowed"),
        (outgoing("10.0.0.3", 5432), "denied"),
        (outgoing("10.0.0.2", 5432, protocol="udp"), "allowed"),
        (outgoing("10.0.0.9", 1, loopback=True), "allowed"),
        (outgoing("192.0.2.1", 443, (13, 14, 18), uid=34), "allowed"),
        (outgoing("192.0.2.1", 444, (13, 14, 18), uid=34), "would-deny"),
        (outgoing("192.0.2.1", 444, (13, 14, 18), uid=0), "allowed"),
        (outgoing("10.0.0.1", 443, (13, 14, 18), uid=34), "would-deny"),
        (incoming("10.0.0.77", 80, (13, 14, 18)), "would-deny"),
    ],
)
def test_the_shop(packet: Packet, verdict: str) -> None:
    found = shop(packet)
    assert found.verdict == verdict, found.trail


@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        (outgoing("10.0.0.53", 53, protocol="udp"), "allowed"),
        (outgoing("10.0.0.54", 53, protocol="udp"), "denied"),
        (outgoing("10.0.0.200", 123, protocol="udp"), "allowed"),
        (outgoing("10.0.0.5", 7443, uid=977), "allowed"),
        (outgoing("10.0.0.5", 7443, uid=0), "denied"),
        (incoming("10.9.9.1", 22), "allowed"),
        (incoming("10.9.8.1", 22), "denied"),
        (incoming("fd00:99::1", 22), "allowed"),
        (incoming("203.0.113.1", 7443), "allowed"),
        (incoming("fe80::1", 135, None, "icmpv6"), "allowed"),
        (incoming("10.0.0.250", 68, protocol="udp", source_port=67, broadcast=True), "allowed"),
        (outgoing("255.255.255.255", 67, protocol="udp", source_port=68), "allowed"),
    ],
)
def test_essentials_of_an_enforcing_workload(packet: Packet, verdict: str) -> None:
    assert shop(packet).verdict == verdict


def test_an_unknown_cgroup_is_closed_only_while_something_enforces() -> None:
    assert shop(incoming("10.0.0.1", 5432, NEW)).verdict == "denied"
    assert shop(outgoing("10.0.0.2", 5432, NEW)).verdict == "denied"
    assert 'log "segctl 1 in deny ?"' in shop(incoming("10.0.0.1", 5432, NEW)).trail
    calm = policy(*(replace(w, mode=Mode.TEST) for w in SHOP.workloads), groups=SHOP.groups)
    assert evaluate(render(calm, SHOP_FACTS, decided(calm)), incoming("10.0.0.1", 5432, NEW)).verdict == "allowed"


def test_a_denial_is_logged_with_its_workload_and_broadcast_is_not() -> None:
    assert 'log "segctl 1 in deny shop-db"' in shop(incoming("10.0.0.2", 1)).trail
    quiet = shop(incoming("10.0.0.2", 1, protocol="udp", broadcast=True))
    assert quiet.verdict == "denied"
    assert not any(line.startswith("log") for line in quiet.trail)


def test_an_enrolled_address_is_never_a_peer() -> None:
    anyone = Group("any", networks("0.0.0.0/0"))
    single = Group("single", networks("10.0.0.1/32", "10.0.0.3/32"))
    entries = (Entry("r", "any", (ports(80),), managed=False), Entry("s", "single", (ports(81),), managed=False))
    web = LocalWorkload("web", Process(ProcessKind.UNIT, "w.service"), Mode.ENFORCE, ingress=entries)
    closed = policy(web, groups=(anyone, single), managed=AddressSet.of([ip_address("10.0.0.1")]))
    ruleset = render(closed, HostFacts({"s.slice/w.service": 12}), decided(closed))
    assert evaluate(ruleset, incoming("10.0.0.2", 80)).verdict == "allowed"
    assert evaluate(ruleset, incoming("10.0.0.1", 80)).verdict == "denied"
    assert evaluate(ruleset, incoming("10.0.0.3", 81)).verdict == "allowed"
    assert evaluate(ruleset, incoming("10.0.0.1", 81)).verdict == "denied"


def test_observing_lets_everything_through_and_locking_nothing() -> None:
    for packet in (incoming("1.2.3.4", 1), outgoing("1.2.3.4", 1), incoming("fd00::5", 1, None)):
        assert evaluate(render(OBSERVING, SHOP_FACTS, decided(OBSERVING)), packet).verdict == "allowed"
        assert evaluate(render(EMPTY, SHOP_FACTS, decided(EMPTY)), packet).verdict == "allowed"
        assert evaluate(render(LOCKED, SHOP_FACTS, decided(LOCKED)), packet).verdict == "denied"


def test_decision_ids_change_marks_and_nothing_else() -> None:
    one, two = render(SHOP, SHOP_FACTS, decided(SHOP, 1)), render(SHOP, SHOP_FACTS, decided(SHOP, 2))
    differ = {name for name in one.sets if one.sets[name] != two.sets[name]}
    assert differ == {"live"}
    assert one.chains["lvl3_in"] == two.chains["lvl3_in"]
    assert one.chains["w_shop-db_in"] != two.chains["w_shop-db_in"]


def test_the_order_of_facts_does_not_matter() -> None:
    backwards = replace(SHOP_FACTS, cgroups=dict(reversed(SHOP_FACTS.cgroups.items())))
    assert render(SHOP, backwards, decided(SHOP)) == render(SHOP, SHOP_FACTS, decided(SHOP))


def test_exact_flows_need_no_rules_however_many() -> None:
    many = Group("many", tuple(ip_network((10 << 24 | i, 32)) for i in range(600)))
    entries = tuple(Entry(f"r{i}", "many", (ports(i),), managed=True) for i in range(1, 4))
    wanted = policy(host_workload(Mode.ENFORCE, ingress=entries), groups=(many,))
    ruleset = render(wanted, HostFacts(), decided(wanted))
    flows = ruleset.sets["w_host_in4"]
    assert len(flows.elements) == 1800
    assert flows.spec.size == size_for(1800) == 4096
    assert len(ruleset.chains["w_host_in"].rules) == 2
    assert "gmany4" not in ruleset.sets


def test_adjacent_networks_are_one_interval() -> None:
    (made,) = network_sets("x", networks("10.0.0.0/25", "10.0.0.128/26", "10.0.0.192/32", "10.1.0.0/32")).values()
    assert made.spec.interval
    ten = b"\x0a\0\0"
    assert set(made.elements) == {ten + b"\0" + ten + b"\xc0", b"\x0a\1\0\0" * 2}
    assert made.spec.key == (KeyType.IPV4_ADDR,)


def test_prefixes_fit_the_oldest_kernels() -> None:
    assert len(encode("out", "deny", "x" * 40)) < 64


def test_counters_by_workload() -> None:
    packets: Mapping[str, int] = {"end_shop-db_in": 5, "unknown_out": 1, "end_backup_out": 2}
    assert denied_counters(packets, SHOP) == {("in", "shop-db"): 5, ("out", "?"): 1, ("out", "backup"): 2}
