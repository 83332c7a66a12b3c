"""Ways in that must stay: the rescue list, and name resolution for what enforces.

The agent's channel to its controller and the rescue list are essentials, so no rule or boundary can cut them. What can
still lock people out is a rescue list that is missing, allows no login, or names only hosts that enforce themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from segctl.model.findings import NOWHERE, Finding
from segctl.model.inventory import Address, Host, Inventory
from segctl.model.policy import Mode, Network, Policy, PortRange, Rule
from segctl.policy.checks.cuts import cuts_wholly
from segctl.policy.checks.terms import Terms, error, warning
from segctl.policy.decide import effective_mode, instances, is_live, selects

_SSH = PortRange("tcp", 22, 22)
_DNS = PortRange("udp", 53, 53)


def find_lost_access(
    policy: Policy, terms: Terms, inventory: Inventory | None, now: datetime, controller: Sequence[Address]
) -> Iterator[Finding]:
    """Nothing while no mode enforces. `controller` addresses only serve as a proposal for the rescue list."""
    enforcing = [m for m in policy.modes if m.mode is Mode.ENFORCE]
    if not enforcing:
        return
    where = policy.essentials.where if policy.essentials.where != NOWHERE else enforcing[0].where
    held = dict(_held_by_enforcing(policy, inventory, now))
    usable = any(p.protocol == "tcp" for p in policy.essentials.rescue_ports) and any(
        n not in held for n in policy.essentials.rescue
    )
    lost = not usable and not any(_lets_in(policy, terms, rule, now) for rule in policy.rules)
    for code, message, hint in _rescue_findings(policy, held, controller):
        if not (lost and code == "no-rescue"):  # one problem, told once
            yield warning(where, code, message, hint)
    if lost:
        message = "nobody could log in to what enforces: no usable rescue list, and no rule allows tcp/22 from a peer"
        hint = f"add essentials: {{rescue: {{from: [{_proposal(controller)}]}}}}"
        yield error(where, "lock-out", message, hint)
    if not policy.essentials.dns and not any(_resolves(rule, now) for rule in policy.rules):
        message = "something enforces and no DNS server is declared: neither programs nor the agent can resolve names"
        yield warning(where, "no-dns", message, "add essentials: {dns: [ADDRESS]}")


def _rescue_findings(
    policy: Policy, held: dict[Network, Host], controller: Sequence[Address]
) -> Iterator[tuple[str, str, str]]:
    essentials = policy.essentials
    if not essentials.rescue:
        hint = f"add essentials: {{rescue: {{from: [{_proposal(controller)}]}}}}"
        yield "no-rescue", "something enforces and there is no rescue list: a mistake in a rule can lock you out", hint
    elif not any(p.protocol == "tcp" for p in essentials.rescue_ports):
        yield "rescue-no-tcp", "the rescue list allows no tcp port: nobody can log in through it", "allow ssh in it"
    for network, host in held.items():
        message = (
            f"rescue address {network.network_address} is host {host.name}, which enforces and has no rule to log in "
            "elsewhere: its own egress stops it"
        )
        yield "rescue-held", message, f"add a rule from {host.name}'s tags, or name an address that is not enrolled"


def _proposal(controller: Sequence[Address]) -> str:
    return ", ".join(str(a) for a in controller) or "ADDRESS"


def _lets_in(policy: Policy, terms: Terms, rule: Rule, now: datetime) -> bool:
    """The rule surely lets ssh into something that may enforce, from outside the fleet."""
    if rule.source.peer is None or not is_live(rule, now) or not any(p.covers(_SSH) for p in rule.ports):
        return False
    destination = terms.of(rule.destination)
    reaches = any(m.mode is Mode.ENFORCE and terms.of(m.select).meets(destination) for m in policy.modes)
    return reaches and not any(cuts_wholly(terms, b, rule) for b in policy.boundaries)


def _resolves(rule: Rule, now: datetime) -> bool:
    return is_live(rule, now) and any(p.covers(_DNS) for p in rule.ports)


def _held_by_enforcing(policy: Policy, inventory: Inventory | None, now: datetime) -> Iterator[tuple[Network, Host]]:
    """Rescue addresses that are enforcing hosts without a rule for any of the rescue ports."""
    if inventory is None:
        return
    single = {n.network_address: n for n in policy.essentials.rescue if n.prefixlen == n.max_prefixlen}
    for host in inventory.hosts.values() if single else ():
        for address in host.addresses:
            if address in single and _is_shut_in(policy, host, now):
                yield single[address], host


def _is_shut_in(policy: Policy, host: Host, now: datetime) -> bool:
    here = instances(policy, host)
    if any(effective_mode(policy, i) is not Mode.ENFORCE for i in here):
        return False
    ports = [p for p in policy.essentials.rescue_ports if p.protocol == "tcp"]
    return not any(
        is_live(r, now)
        and any(p.overlaps(q) for p in r.ports for q in ports)
        and any(selects(r.source, i) for i in here)
        for r in policy.rules
    )
