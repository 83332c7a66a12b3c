"""Whether a proposed rule may be offered: it must open the connection, and break no test of the policy that holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from segctl.model.findings import Position
from segctl.model.inventory import Inventory
from segctl.model.policy import Policy, PolicyTest, PortRange
from segctl.policy.checks.meeting import find_rights_that_meet
from segctl.policy.decide import Decision, Direction, Instance, decide_end, essential, instances
from segctl.policy.propose import End, Proposal, Seen, propose_rule
from segctl.policy.satisfy import run_tests


@dataclass(frozen=True, slots=True)
class Offer:
    """A policy file of its own in `text`, or in `refusal` why there is none. One of them is empty."""

    text: str = ""
    refusal: str = ""


def offer_rule(
    policy: Policy,
    inventory: Inventory,
    source: End,
    destination: End,
    port: PortRange,
    now: datetime,
    source_process: Seen | None = None,
    destination_process: Seen | None = None,
) -> Offer:
    """The proposal for a connection that the policy denies. Both ends are enrolled hosts' or unmanaged addresses."""
    proposal = propose_rule(policy, source, destination, port, source_process, destination_process)
    if isinstance(proposal, str):
        return Offer(refusal=proposal)
    after = proposal.added_to(policy)
    broken = _broken_test(policy, after, proposal, inventory, now)
    if broken is not None:
        return Offer(refusal=f"the test at {_line(broken)} forbids this: talk to the people who wrote it")
    for decision in _decisions(after, inventory, proposal, port, now):
        if decision.reason == "boundary":
            return Offer(refusal=f"boundary {decision.name} would deny it all the same: no rule can open it")
        if not decision.allowed:
            return Offer(refusal="no single rule can open it: segctl explain shows both ends")
    return Offer(proposal.text())


def _broken_test(
    policy: Policy, after: Policy, proposal: Proposal, inventory: Inventory, now: datetime
) -> Position | None:
    """The first test that holds of `policy` and not of `after`. One more rule can break a `deny` alone."""
    port = proposal.rule.ports[0]
    denials = tuple(t for t in policy.tests if not t.allow and any(p.overlaps(port) for p in t.ports))

    def held(test: PolicyTest) -> bool:
        return not run_tests(replace(policy, tests=(test,)), now)

    for test in denials:
        if run_tests(replace(after, rules=(proposal.rule,), tests=(test,)), now) and held(test):
            return test.where
    hosts = {e.host for e in (proposal.source, proposal.destination) if isinstance(e, Instance)}
    if not denials or len(hosts) < 2:
        return None
    pair = Inventory({name: inventory.hosts[name] for name in hosts})
    met, before = (_met(p, denials, port, pair, now) for p in (after, policy))
    return next((t.where for t in denials if t.where in met - before and held(t)), None)


def _met(
    policy: Policy, tests: tuple[PolicyTest, ...], port: PortRange, inventory: Inventory, now: datetime
) -> set[Position]:
    """Where two rules for one port let neighbours through that a test keeps apart. Other rules have no part in it, and
    a controller that describes denials has no time for them."""
    rules = tuple(r for r in policy.rules if any(p.overlaps(port) for p in r.ports))
    return {f.position for f in find_rights_that_meet(replace(policy, rules=rules, tests=tests), inventory, now)}


def _decisions(
    policy: Policy, inventory: Inventory, proposal: Proposal, port: PortRange, now: datetime
) -> list[Decision]:
    pairs: tuple[tuple[Direction, End, End], ...] = (
        ("egress", proposal.source, proposal.destination),
        ("ingress", proposal.destination, proposal.source),
    )
    found: list[Decision] = []
    for direction, local, remote in pairs:
        if not isinstance(local, Instance):
            continue
        if isinstance(remote, Instance):
            host = inventory.hosts[remote.host]
            passes = essential(policy, direction, host.addresses, port)
            found.append(passes or decide_end(policy, direction, local, instances(policy, host), port, now))
        else:
            passes = essential(policy, direction, remote, port)
            found.append(passes or decide_end(policy, direction, local, remote, port, now))
    return found


def _line(place: Position) -> str:
    return f"{place.file}:{place.line}" if place.line else place.file
