"""What the explainer says, the kernels do: random policies on a real fleet.

For every probe three answers must agree: the explainer's, the network's (a real connection, datagram or ping between
processes in cgroups), and the evaluator's on the rulesets that were read back from both kernels.

SEGCTL_EQUIVALENCE_SECONDS bounds the time, SEGCTL_EQUIVALENCE_SEED repeats a run.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from random import Random

import pytest
from segctl.model.inventory import Inventory
from segctl.model.policy import Policy
from segctl.policy.compile import compile_host
from segctl.policy.explain import Verdict, overall
from segctl_agent.nft.evaluate import Packet

from tests.netns.expected import Expectation, Probe, draw_probes
from tests.netns.fleet import PLACES, Fleet
from tests.netns.randompolicy import NOW, RandomPolicies

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(900)]
SECONDS = float(os.environ.get("SEGCTL_EQUIVALENCE_SECONDS", "30"))
PROBES_EACH = 90
FEWEST = 300
MOST = 100
"""Policies that are drawn until every verdict was seen."""
_SHORT, _LONG = 0.05, 2.5


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    made = Fleet()
    try:
        yield made
    finally:
        made.close()


class Round:
    """One policy, compiled and applied, and what it makes of probes."""

    def __init__(self, fleet: Fleet, policy: Policy, inventory: Inventory, turn: int) -> None:
        self._fleet = fleet
        self.host_policies = {
            m.index: compile_host(policy, inventory, f"h{m.index}", 1, "digest", NOW) for m in fleet.hosts
        }
        self.expected = Expectation(policy, inventory, self.host_policies).expected
        fleet.apply(self.host_policies, turn)

    def evaluated(self, probes: list[Probe]) -> list[dict[str, tuple[Verdict, tuple[str, ...]]]]:
        """What the ruleset in the kernel of each end says, with its trail."""
        packets: dict[int, list[Packet]] = {m: [] for m in self.host_policies}
        where: list[dict[str, tuple[int, int]]] = []
        for probe in probes:
            spots = {}
            for member, packet in self._packets(probe):
                spots["egress" if packet.direction == "out" else "ingress"] = (member, len(packets[member]))
                packets[member].append(packet)
            where.append(spots)
        answers = self._fleet.evaluate(packets)
        return [{end: answers[m][i] for end, (m, i) in spots.items()} for spots in where]

    def _packets(self, probe: Probe) -> Iterator[tuple[int, Packet]]:
        a = probe.attempt
        if probe.member in self.host_policies:
            cgroup = self._fleet.members[probe.member].ancestry(probe.place)
            uid = PLACES[probe.place].uid
            yield (
                probe.member,
                Packet("out", a.port.protocol, a.source, a.destination, a.port.low, cgroup=cgroup, uid=uid, gid=uid),
            )
        if probe.to_member in self.host_policies:
            listener = None if probe.icmp else self._fleet.members[probe.to_member].ancestry(probe.to_place)
            yield (
                probe.to_member,
                Packet("in", a.port.protocol, a.source, a.destination, a.port.low, cgroup=listener),
            )


def test_explainer_network_and_evaluator_agree(fleet: Fleet) -> None:
    seed = int(os.environ.get("SEGCTL_EQUIVALENCE_SEED") or secrets.randbelow(1 << 32))
    random, policies = Random(seed), RandomPolicies(seed, [m.addresses for m in fleet.hosts])
    counts = {"allowed": 0, "denied": 0, "would-deny": 0}
    rounds = 0
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline or sum(counts.values()) < FEWEST or (not min(counts.values()) and rounds < MOST):
        policy, inventory = policies.draw()
        here = Round(fleet, policy, inventory, rounds % 2047 + 1)
        probes = draw_probes(random, len(fleet.members), PROBES_EACH)
        context = f"seed {seed}, round {rounds}: {policy} {inventory}"
        check(fleet, here, probes, counts, context)
        rounds += 1
    print(f"seed {seed}: {rounds} policies, probes {counts}")
    assert min(counts.values()) > 0, f"seed {seed}: the probes were one-sided: {counts}"


def check(fleet: Fleet, here: Round, probes: list[Probe], counts: dict[str, int], context: str) -> None:
    got = fleet.attempt(((p.member, p.place, p.attempt) for p in probes), _SHORT)
    for probe, evaluated in zip(probes, here.evaluated(probes), strict=True):
        ends, why = here.expected(probe)
        said = {end: verdict for end, (verdict, _) in evaluated.items()}
        assert said == ends, f"{context}\n{why}\nthe rulesets say {evaluated}"
        expected = overall(ends.values())
        key = (probe.member, probe.place, probe.attempt)
        passed = got[key]
        if not passed and expected != "denied":  # the machine may be slow: only then ask again, with patience
            passed = fleet.attempt([key], _LONG)[key]
        assert passed is (expected != "denied"), f"{context}\n{why}\nthe network let it through: {passed}; {evaluated}"
        counts[expected] += 1
