"""Ways in that must stay: the rescue list, and name resolution for what enforces.

The agent's channel to its controller and the rescue list are essentials, so no rule or boundary can cut them. What can
still lock people out is a rescue list that is missing, allows no login, names only hosts that enforce themselves or
places that nobody comes from; and then a host into which no rule lets ssh. Whoever wants that says `rescue: none`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from segctl.model.findings import NOWHERE, Finding
from segctl.model.inventory import Address, Host, Inventory
from segctl.model.policy import HOST_WORKLOAD, Mode, Network, Policy, PortRange, Rule, Selector, Tags
from segctl.policy.checks.cuts import cuts_wholly
from segctl.policy.checks.terms import Terms, error, warning
from segctl.policy.decide import Instance, effective_mode, instances, is_live, selects

_SSH = PortRange("tcp", 22, 22)
_DNS = PortRange("udp", 53, 53)
_WIDEST = {4: 8, 6: 16}
"""Prefix lengths from which on a rescue network is no longer most of the world."""
_NAMED = 5


def find_lost_access(
    policy: Policy, terms: Terms, inventory: Inventory | None, now: datetime, controller: Sequence[Address]
) -> Iterator[Finding]:
    """Nothing while no mode enforces. `controller` addresses only serve as a proposal for the rescue list."""
    enforcing = [m for m in policy.modes if m.mode is Mode.ENFORCE]
    if not enforcing:
        return
    where = policy.essentials.where if policy.essentials.where != NOWHERE else enforcing[0].where
    held = dict(_held_by_enforcing(policy, inventory, now))
    usable = [n for n in policy.essentials.rescue if n not in held and not _is_nowhere(n)] if _logs_in(policy) else []
    lost = _lost(policy, terms, inventory, usable)
    for code, message, hint in _rescue_findings(policy, held, controller):
        if not (lost and code == "no-rescue"):  # one problem, told once
            yield warning(where, code, message, hint)
    if lost:
        hint = (
            f"add essentials: {{rescue: {{from: [{_proposal(controller)}]}}}}, or say that there are other ways in "
            "(consoles): essentials: {rescue: none}"
        )
        yield error(where, "lock-out", f"nobody could log in to {lost}", hint)
    if not policy.essentials.dns and not any(_resolves(rule, now) for rule in policy.rules):
        message = "something enforces and no DNS server is declared: neither programs nor the agent can resolve names"
        yield warning(where, "no-dns", message, "add essentials: {dns: [ADDRESS]}")


def _lost(policy: Policy, terms: Terms, inventory: Inventory | None, usable: Sequence[Network]) -> str:
    """To what nobody could log in, and why; empty when there is a way in, or the policy says that none is meant."""
    if policy.essentials.no_rescue:
        return ""
    rules = _login_rules(policy)
    if not usable and not any(_lets_in(policy, terms, rule) for rule in rules):
        return "what enforces: no usable rescue list, and no rule without an end allows tcp/22 from a peer"
    if inventory is None:
        return ""
    is_shut: dict[Tags, bool] = {}
    shut = []
    for host in inventory.hosts.values():
        if not _reached(host, usable):
            if host.tags not in is_shut:
                is_shut[host.tags] = _is_shut(policy, terms, host, rules)
            if is_shut[host.tags]:
                shut.append(host.name)
    if not shut:
        return ""
    more = f" and {len(shut) - _NAMED} more" if len(shut) > _NAMED else ""
    return (
        f"{', '.join(sorted(shut)[:_NAMED])}{more}, which would enforce: no usable rescue address of their address "
        "family, and no rule without an end allows tcp/22 into them"
    )


def _rescue_findings(
    policy: Policy, held: dict[Network, Host], controller: Sequence[Address]
) -> Iterator[tuple[str, str, str]]:
    essentials = policy.essentials
    add = f"add essentials: {{rescue: {{from: [{_proposal(controller)}]}}}}"
    if essentials.no_rescue:
        message = "the policy says rescue: none: if the rules let nobody in, a console is the only way"
        yield "no-rescue", message, f"keep it if that is meant, or {add}"
    elif not essentials.rescue:
        yield "no-rescue", "something enforces and there is no rescue list: a mistake in a rule can lock you out", add
    elif not any(p.protocol == "tcp" for p in essentials.rescue_ports):
        yield "rescue-no-tcp", "the rescue list allows no tcp port: nobody can log in through it", "allow ssh in it"
    elif not _logs_in(policy):
        message = "the rescue list allows no ssh: nobody can log in through it"
        hint = "allow ssh in it; where sshd listens elsewhere, declare its port as a service with ssh in its name"
        yield "rescue-no-ssh", message, hint
    for network in essentials.rescue:
        if _is_nowhere(network):
            message = f"nobody comes from the rescue address {network}"
            yield "rescue-nowhere", message, "name the addresses that people log in from"
        elif network.prefixlen < _WIDEST[network.version]:
            message = f"the rescue network {network} lets most of the world past every rule and boundary"
            yield "rescue-wide", message, "name only what people log in from in an emergency"
    for network, host in held.items():
        message = (
            f"rescue address {network.network_address} is host {host.name}, which enforces and has no rule to log in "
            "elsewhere: its own egress stops it"
        )
        yield "rescue-held", message, f"add a rule from {host.name}'s tags, or name an address that is not enrolled"


def _proposal(controller: Sequence[Address]) -> str:
    return ", ".join(str(a) for a in controller) or "ADDRESS"


def _login_ports(policy: Policy) -> list[PortRange]:
    """Where sshd listens: tcp/22, and what services with ssh in their name say."""
    declared = [p for s in policy.services.values() if "ssh" in s.name for p in s.ports if p.protocol == "tcp"]
    return [_SSH, *declared]


def _logs_in(policy: Policy) -> bool:
    return any(p.covers(q) for p in policy.essentials.rescue_ports for q in _login_ports(policy))


def _is_nowhere(network: Network) -> bool:
    return network.is_loopback or network.is_multicast or (network.is_unspecified and network.prefixlen > 0)


def _reached(host: Host, usable: Sequence[Network]) -> bool:
    """By a rescue address of a family that the host has an address of. A host without any was never connected."""
    return any(not host.addresses or any(a.version == n.version for a in host.addresses) for n in usable)


def _is_shut(policy: Policy, terms: Terms, host: Host, rules: Sequence[Rule]) -> bool:
    """It enforces for sshd, and no rule that has no end lets ssh in from anywhere."""
    sshd = _sshd(policy, instances(policy, host))
    if effective_mode(policy, sshd) is not Mode.ENFORCE:
        return False
    return not any(
        selects(rule.destination, sshd)
        and not any(_cuts_into(terms, b.source, b.destination, rule, sshd) for b in policy.boundaries)
        for rule in rules
    )


def _sshd(policy: Policy, here: Sequence[Instance]) -> Instance:
    """The workload that lets people in: one whose process says ssh, else what no workload names."""
    named = (
        i for i in here if i.workload in policy.workloads and "ssh" in policy.workloads[i.workload].process.pattern
    )
    return next(named, next(i for i in here if i.workload == HOST_WORKLOAD))


def _login_rules(policy: Policy) -> list[Rule]:
    """Rules that hold for good and allow ssh."""
    ports = _login_ports(policy)
    return [r for r in policy.rules if r.until is None and any(p.covers(q) for p in r.ports for q in ports)]


def _cuts_into(terms: Terms, source: Selector, destination: Selector, rule: Rule, instance: Instance) -> bool:
    return selects(destination, instance) and terms.of(source).covers(terms.of(rule.source))


def _lets_in(policy: Policy, terms: Terms, rule: Rule) -> bool:
    """The rule, which allows ssh, surely does so into something that may enforce, from outside the fleet."""
    if rule.source.peer is None:
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
