"""The wire form keeps every value, and hostile messages are refused by name."""

from __future__ import annotations

import pytest
from segctl.errors import WireError
from segctl.model.findings import Finding, Position, Severity
from segctl.policy.compile import compile_host
from segctl.policy.digest import policy_digest
from segctl.proto.v1 import hostpolicy_pb2 as pb
from segctl.wire import (
    address_from_wire,
    findings_from_wire,
    findings_to_wire,
    host_policy_from_wire,
    host_policy_to_wire,
    network_from_wire,
    port_range_from_wire,
)

from tests.shop import FLEET, SHOP, TODAY


def message(name: str = "web1") -> pb.HostPolicy:
    return host_policy_to_wire(compile_host(SHOP, FLEET, name, 7, policy_digest(SHOP), TODAY))


@pytest.mark.parametrize("name", FLEET.hosts)
def test_a_host_policy_survives_the_wire(name: str) -> None:
    sent = message(name)
    assert host_policy_to_wire(host_policy_from_wire(pb.HostPolicy.FromString(sent.SerializeToString()))) == sent


def test_a_changed_field_breaks_the_digest() -> None:
    sent = message()
    sent.workloads[0].mode = "observe"
    with pytest.raises(WireError, match="digest"):
        host_policy_from_wire(sent)


def test_a_missing_group_is_named() -> None:
    sent = message()
    gone = sent.groups[0].name
    del sent.groups[0]
    with pytest.raises(WireError, match=gone):
        host_policy_from_wire(sent)


def test_a_policy_without_the_host_itself_is_refused() -> None:
    sent = message("bastion")
    del sent.workloads[:]
    with pytest.raises(WireError, match="exactly once"):
        host_policy_from_wire(sent)


@pytest.mark.parametrize(("field", "value"), [("mode", "off"), ("process_kind", "pid")])
def test_unknown_words_name_the_workload(field: str, value: str) -> None:
    sent = message()
    setattr(sent.workloads[1], field, value)
    with pytest.raises(WireError, match="shop-web"):
        host_policy_from_wire(sent)


@pytest.mark.parametrize(
    "port",
    [
        pb.PortRange(protocol="tcp", low=2, high=1),
        pb.PortRange(protocol="tcp", low=1, high=65536),
        pb.PortRange(protocol="icmp", low=0, high=256),
        pb.PortRange(protocol="sctp", low=1, high=1),
    ],
)
def test_port_ranges_out_of_bounds(port: pb.PortRange) -> None:
    with pytest.raises(WireError, match="out of bounds"):
        port_range_from_wire(port)


def test_addresses_and_networks_out_of_bounds() -> None:
    with pytest.raises(WireError, match="3"):
        address_from_wire(b"abc")
    with pytest.raises(WireError, match="33"):
        network_from_wire(pb.Network(address=bytes(4), prefix=33))
    with pytest.raises(WireError, match="host bits"):
        network_from_wire(pb.Network(address=b"\x0a\x00\x00\x01", prefix=8))


def test_findings_survive_the_wire() -> None:
    found = (Finding(Position("a.yaml", 3, 7), Severity.ERROR, "code", "message", "hint"),)
    assert findings_from_wire(findings_to_wire(found)) == found
