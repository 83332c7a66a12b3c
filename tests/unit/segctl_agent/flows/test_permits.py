"""What a host policy says about one flow."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from segctl.model.addresses import AddressSet
from segctl.model.hostpolicy import LocalWorkload
from segctl.model.policy import Essentials, Mode, PortRange, Process, ProcessKind
from segctl_agent.flows.permits import PolicyIndex, permitting_rule

from tests.unit.segctl_agent.flows.rows import entry, packed, policy, tcp

DB = Process(ProcessKind.UNIT, "db.service")
GROUPS = {
    "web": ("10.0.0.5/32", "10.0.0.9/32", "fd00::5/128"),
    "office": ("203.0.113.0/24", "10.0.0.0/16", "2001:db8::/48"),
}
POLICY = policy(
    LocalWorkload(
        "db",
        DB,
        Mode.ENFORCE,
        ingress=(
            entry("web-to-db", "web", tcp(5432)),
            entry("all-of-web", "web", tcp(5000, 6000)),
            entry("office", "office", tcp(443), PortRange("icmp", 8, 8), managed=False),
            entry("night", "web", tcp(9000), until=1000),
        ),
        egress=(entry("db-out", "office", tcp(0, 65535), managed=False),),
    ),
    LocalWorkload("seen", DB, Mode.OBSERVE),
    LocalWorkload("tried", DB, Mode.TEST),
    groups=GROUPS,
    managed=AddressSet.of([ip_address("10.0.0.5")]),
    essentials=Essentials(
        dns=(ip_network("10.9.0.1/32"),), ntp=(ip_network("10.9.0.2/32"),), rescue=(ip_network("10.8.0.0/24"),)
    ),
)


@pytest.mark.parametrize(
    ("direction", "remote", "protocol", "port", "rule"),
    [
        ("in", "10.0.0.5", 6, 5432, "all-of-web"),  # the first by name, though the other is exact
        ("in", "10.0.0.9", 6, 5999, "all-of-web"),
        ("in", "fd00::5", 6, 6000, "all-of-web"),
        ("in", "10.0.0.6", 6, 5432, None),
        ("in", "10.0.0.5", 17, 5432, None),
        ("in", "10.0.0.5", 6, 6001, None),
        ("in", "203.0.113.255", 6, 443, "office"),
        ("in", "203.0.114.0", 6, 443, None),
        ("in", "203.0.113.7", 1, 8, "office"),
        ("in", "203.0.113.7", 58, 8, None),
        ("in", "10.0.0.5", 6, 443, None),  # enrolled, so no peer
        ("in", "10.0.0.6", 6, 443, "office"),
        ("out", "2001:db8:0:ffff::1", 6, 1, "db-out"),
        ("out", "2001:db8:1::1", 6, 1, None),
        ("out", "10.0.0.6", 132, 443, None),
    ],
)
def test_the_rule_that_permits(direction, remote: str, protocol: int, port: int, rule: str | None) -> None:
    assert permitting_rule(POLICY, direction, "db", packed(remote), protocol, port) == rule


def test_a_rule_ends_with_its_time() -> None:
    index = PolicyIndex(POLICY)
    assert index.permitting_rule("in", "db", packed("10.0.0.5"), 6, 9000, 999.9) == "night"
    assert index.permitting_rule("in", "db", packed("10.0.0.5"), 6, 9000, 1000) is None


@pytest.mark.parametrize(
    ("workload", "passes", "verdict"),
    [
        ("db", False, "allowed"),
        ("seen", True, "observed"),
        ("tried", True, "would-deny"),
        ("no-such-workload", False, "allowed"),  # its processes belong to host, which enforces
    ],
)
def test_without_a_rule_the_mode_decides(workload: str, passes: bool, verdict: str) -> None:
    assert PolicyIndex(POLICY).judge("in", workload, packed("192.0.2.1"), 6, 1, 0) == (passes, "", verdict)


@pytest.mark.parametrize(
    ("direction", "remote", "protocol", "port", "passes"),
    [
        ("out", "10.9.0.1", 17, 53, True),
        ("out", "10.9.0.1", 6, 53, True),
        ("in", "10.9.0.1", 17, 53, False),
        ("out", "10.9.0.2", 17, 53, False),
        ("out", "10.9.0.2", 17, 123, True),
        ("out", "10.9.0.2", 6, 123, False),
        ("in", "10.8.0.77", 6, 22, True),
        ("in", "10.8.1.77", 6, 22, False),
        ("in", "10.8.0.77", 6, 23, False),
        ("out", "10.8.0.77", 6, 22, False),
    ],
)
def test_declared_essentials(direction, remote: str, protocol: int, port: int, passes: bool) -> None:
    assert PolicyIndex(POLICY).essential(direction, packed(remote), protocol, port) is passes
