"""What the peers are given: one rule for each address, in each one's own words."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from ipaddress import IPv4Address

from bench.peers import firewalld_zone, iptables_rules, ufw_rules

ADDRESSES = [IPv4Address("10.0.0.3") + 32 * i for i in range(5)]


def test_iptables_lets_replies_in_first_and_drops_the_rest():
    lines = iptables_rules(ADDRESSES).splitlines()
    assert lines[0] == "*filter"
    assert lines[-1] == "COMMIT"
    assert ":INPUT DROP [0:0]" in lines
    rules = [line for line in lines if line.startswith("-A")]
    assert "ESTABLISHED" in rules[1]
    assert [rule.split()[3] for rule in rules[2:]] == [f"{a}/32" for a in ADDRESSES]


def test_ufw_has_a_tuple_and_a_rule_for_each_address():
    lines = [line for line in ufw_rules(ADDRESSES).splitlines() if line]
    assert [line.split()[8] for line in lines[::2]] == [str(a) for a in ADDRESSES]
    assert all(line.startswith("### tuple ###") for line in lines[::2])
    assert all(line.startswith("-A ufw-user-input -p tcp --dport 8080") for line in lines[1::2])


def test_a_zone_of_firewalld_is_xml_with_a_rich_rule_for_each_address():
    zone = ET.fromstring(firewalld_zone(ADDRESSES))
    assert zone.get("target") == "DROP"
    assert [rule.find("source").get("address") for rule in zone] == [str(a) for a in ADDRESSES]
