"""Adds to a denial what only the controller knows: who the peer is, why it was denied, and what would allow it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from segctl.model.inventory import Address, Host, Inventory
from segctl.model.policy import HOST_WORKLOAD, Policy, PortRange, Tags
from segctl.policy.decide import Decision, Direction, Instance, decide_end, instances
from segctl.policy.offer import offer_rule
from segctl.policy.propose import Seen, service_name

ListenerOf = Callable[[str, PortRange], str]
"""(host, port) -> the workload that listens there by the host's facts, or empty."""


@dataclass(frozen=True, slots=True)
class Denied:
    """A denied connection as its host told it, without count and times.

    `unit` and `user`: of the local process, or empty.
    """

    host: str
    ingress: bool
    workload: str
    remote: Address
    port: PortRange
    unit: str
    user: str


@dataclass(frozen=True, slots=True)
class Context:
    """What the controller adds. `reason` is boundary or default, and `rule` once the policy has come to allow it.
    `suggestion` is a policy file of its own, a comment (`# ...`) that says why there is none, or empty."""

    tags: Tags
    peer_host: str
    peer_workload: str
    peer_tags: Tags
    reason: str
    rule: str
    suggestion: str
    service_name: str


def enrich(
    denied: Denied,
    policy: Policy,
    inventory: Inventory,
    holders: Mapping[Address, str],
    listener_of: ListenerOf,
    now: datetime,
) -> Context:
    host = inventory.hosts[denied.host]
    holder = inventory.hosts.get(holders.get(denied.remote, ""))
    peer_workload = _peer_workload(denied, policy, holder, listener_of)
    local = _instance(policy, host, denied.workload)
    direction: Direction = "ingress" if denied.ingress else "egress"
    others = instances(policy, holder) if holder else denied.remote
    decision = decide_end(policy, direction, local, others, denied.port, now)
    return Context(
        tags=local.tags,
        peer_host=holder.name if holder else "",
        peer_workload=peer_workload,
        peer_tags=_instance(policy, holder, peer_workload).tags if holder else Tags(),
        reason=decision.reason,
        rule=decision.name,
        suggestion=_suggestion(denied, policy, inventory, local, holder, peer_workload, decision, now),
        service_name=service_name(policy, denied.port) if _declared(policy, denied.port) else "",
    )


def _suggestion(
    denied: Denied,
    policy: Policy,
    inventory: Inventory,
    local: Instance,
    holder: Host | None,
    peer_workload: str,
    decision: Decision,
    now: datetime,
) -> str:
    """A boundary cannot be opened by a rule, other IP protocols cannot be named by one, and what is allowed by now
    needs none."""
    if decision.allowed or decision.reason == "boundary" or denied.port.protocol == "ip":
        return ""
    remote = _instance(policy, holder, peer_workload) if holder else denied.remote
    here, there = Seen(denied.unit, denied.user), Seen()
    if denied.ingress:
        offer = offer_rule(policy, inventory, remote, local, denied.port, now, there, here)
    else:
        offer = offer_rule(policy, inventory, local, remote, denied.port, now, here, there)
    return offer.text or f"# {offer.refusal}"


def declared_service(policy: Policy, port: PortRange) -> str:
    """The name of the declared service of just this port, or empty."""
    return service_name(policy, port) if _declared(policy, port) else ""


def _declared(policy: Policy, port: PortRange) -> bool:
    return any(p == port for service in policy.services.values() for p in service.ports)


def _peer_workload(denied: Denied, policy: Policy, holder: Host | None, listener_of: ListenerOf) -> str:
    """Known where the peer has but one, or where its facts say who listens on the port that was called."""
    if holder is None:
        return ""
    names = [i.workload for i in instances(policy, holder)]
    if len(names) == 1:
        return names[0]
    listener = "" if denied.ingress else listener_of(holder.name, denied.port)
    return listener if listener in names else ""


def _instance(policy: Policy, host: Host, workload: str) -> Instance:
    """The workload on the host; one that the policy no longer has there counts as the host itself."""
    found = instances(policy, host)
    named = next((i for i in found if i.workload == workload), None)
    return named or next(i for i in found if i.workload == HOST_WORKLOAD)
