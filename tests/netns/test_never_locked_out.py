"""Whatever a policy says that the check accepts: the rescue list logs in, and the agent reaches its controller.

Random policies under which everything enforces, with boundaries that deny everything, on the real kernel. Sessions that
are open when the policy changes stay, too.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network

import pytest
from segctl.model.findings import Severity
from segctl.model.policy import ANY_PEER, Answer, Boundary, Essentials, Mode, ModeRule, PortRange, Selector
from segctl.policy.check import check_policy
from segctl.policy.compile import compile_host
from segctl_agent.facts.values import Endpoint

from tests.netns.fleet import PLACES, Attempt, Fleet, address
from tests.netns.randompolicy import NOW, RandomPolicies

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]
ROUNDS = int(os.environ.get("SEGCTL_LOCKOUT_ROUNDS", "4"))
SSH, CHANNEL, OTHER = (PortRange("tcp", p, p) for p in (22, 443, 80))
STRANGER, AGENT = 3, 2
PATIENCE = 3.0
RESCUE = tuple(ip_network(t) for t in ("10.77.3.0/24", "fd77::3:0/112"))
DENY_ALL = (
    Boundary("nobody-in", Selector(peer=ANY_PEER), Selector()),
    Boundary("nobody-out", Selector(), Selector(peer=ANY_PEER)),
    Boundary("nobody-across", Selector(), Selector()),
)


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """The stranger is the controller of every host, and their agent the process with uid 33."""
    made = Fleet()
    try:
        for member in made.hosts:
            member.controller = tuple(Endpoint(address(STRANGER, 0, v), CHANNEL.low) for v in (4, 6))
            member.agent_uid = PLACES[AGENT].uid
        yield made
    finally:
        made.close()


def to(member: int, place: int, port: PortRange, source: tuple[int, int]) -> tuple[int, int, list[Attempt]]:
    return (*source, [Attempt(address(*source, v), address(member, place, v), port) for v in (4, 6)])


def test_rescue_and_the_agents_channel_survive_every_policy_that_the_check_accepts(fleet: Fleet) -> None:
    seed = int(os.environ.get("SEGCTL_LOCKOUT_SEED") or secrets.randbelow(1 << 32))
    policies = RandomPolicies(seed, [m.addresses for m in fleet.hosts])
    ssh = [to(m.index, place, SSH, (STRANGER, place)) for m in fleet.hosts for place in range(len(PLACES))]
    channel = [to(STRANGER, 0, CHANNEL, (m.index, AGENT)) for m in fleet.hosts]
    closed = [
        *(to(m.index, place, OTHER, (STRANGER, place)) for m in fleet.hosts for place in range(len(PLACES))),
        *(to(STRANGER, 0, CHANNEL, (m.index, place)) for m in fleet.hosts for place in (0, 1)),
    ]
    sessions: dict[int, tuple[int, int]] = {}
    for number in range(ROUNDS):
        drawn, inventory = policies.draw()
        answer = list(Answer)[number % len(Answer)]
        policy = replace(
            drawn,
            modes=(ModeRule(Selector(), Mode.ENFORCE, outgoing=answer, incoming=answer), *drawn.modes),
            boundaries=(*DENY_ALL, *drawn.boundaries),
            essentials=Essentials(rescue=RESCUE, rescue_ports=(SSH,)),
        )
        context = f"SEGCTL_LOCKOUT_SEED={seed}, round {number}: {policy}"
        errors = [f for f in check_policy(policy, inventory, NOW) if f.severity is Severity.ERROR]
        assert not errors, context
        compiled = {m.index: compile_host(policy, inventory, f"h{m.index}", 1, "digest", NOW) for m in fleet.hosts}
        fleet.apply(compiled, number + 1)
        if not sessions:
            for member, place, (attempt, _) in (*ssh[::3], *channel):
                assert fleet.open(len(sessions), member, place, attempt, PATIENCE)
                sessions[len(sessions)] = (member, place)
        wanted = [(m, p, a) for m, p, attempts in (*ssh, *channel) for a in attempts]
        passed = fleet.attempt(wanted, PATIENCE)
        assert all(passed.values()), f"{context}\n{[what for what, through in passed.items() if not through]}"
        refused = fleet.attempt([(m, p, a) for m, p, attempts in closed for a in attempts], 0.05)
        assert not any(refused.values()), f"{context}\n{[what for what, through in refused.items() if through]}"
        assert all(fleet.ask(sessions, PATIENCE).values()), context
