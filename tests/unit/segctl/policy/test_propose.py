"""Proposals are made of what hosts say, and are pasted by operators."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from segctl.model.policy import PortRange, Tags
from segctl.policy.decide import Instance
from segctl.policy.propose import propose_rule

from tests.policies import policy

WEB = Instance("web1", "host", Tags.of({"role": "web"}))
PEER = ip_address("203.0.113.9")
PORT = PortRange("tcp", 8443, 8443)


def proposal(unit: str, *texts: str) -> str:
    return propose_rule(policy(*texts), WEB, PEER, PORT, source_unit=unit)


def test_a_name_that_is_taken_gets_a_number() -> None:
    long = "a" * 38 + "-x"
    taken = f"workloads:\n  {long}: {{on: {{role: db}}, process: {{unit: b.service}}}}\n"
    assert f"  {'a' * 34}-2: " in proposal(long + ".service", taken)


def test_an_escaped_unit_name_survives_the_paste() -> None:
    unit = "dev-disk\\x2dby.service"
    again = policy(proposal(unit))
    assert unit in [w.process.pattern for w in again.workloads.values()]


@pytest.mark.parametrize("unit", ["*.service", "a?.service", "[ab].service", 'x.service"}}', "a\nb.service", "plain"])
def test_what_is_no_unit_name_declares_no_workload(unit: str) -> None:
    assert proposal(unit).startswith("rules:\n  - {name: web-to-office-tcp-8443, from: {workload: host, role: web}")
    assert proposal(unit).count("\n") == 1
