"""What would the kernel do? Answers a controller's probe from a dump of the table. Pure."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType

from segctl import wire
from segctl.errors import KernelError, WireError
from segctl.model.hostpolicy import HostPolicy
from segctl.model.policy import HOST_WORKLOAD, PortRange, ProcessKind
from segctl.proto.v1 import agent_pb2 as pb

from segctl_agent.facts.values import Address, HostFacts
from segctl_agent.identity import Direction, Identity, leaf_map, workload_chain
from segctl_agent.nft.evaluate import Packet, evaluate
from segctl_agent.nft.ruleset import Ruleset, goto

_NO_CGROUP = (1 << 64) - 1
"""An id that no cgroup has: stands in for a process of a workload of which none runs now."""


def answer(
    request: pb.ProbeRequest,
    ruleset: Ruleset | None,
    policy: HostPolicy | None,
    facts: HostFacts,
    why_open: str = "there is no table",
) -> pb.ProbeReply:
    """Errors come in the reply: they concern this question only. Without a table every packet passes; `why_open` says
    why there is none."""
    if ruleset is None:
        return pb.ProbeReply(id=request.id, verdict="allowed", detail=f"{why_open}: nothing is enforced")
    if policy is None:
        text = "the rules in this kernel are of no generation that the agent can read: see segctl-agent status there"
        return pb.ProbeReply(id=request.id, error=text)
    reply = pb.ProbeReply(id=request.id, generation=policy.generation)
    try:
        remote, port = wire.address_from_wire(request.remote), wire.port_range_from_wire(request.service)
        verdict, detail = _ask(request, ruleset, policy, facts, remote, port)
    except (WireError, KernelError) as error:
        reply.error = str(error)
        return reply
    reply.verdict, reply.detail = verdict, detail
    return reply


def _ask(
    request: pb.ProbeRequest,
    ruleset: Ruleset,
    policy: HostPolicy,
    facts: HostFacts,
    remote: Address,
    port: PortRange,
) -> tuple[str, str]:
    if request.workload not in {w.name for w in policy.workloads}:
        raise WireError(f"this host has no workload {request.workload!r} in generation {policy.generation}")
    if port.protocol == "ip":
        raise WireError(f"no rule can name {port}: ask about tcp, udp, icmp or icmpv6")
    direction: Direction = "in" if request.ingress else "out"
    cgroup, uid, gid, stand_in = _process(request.workload, direction, policy, facts)
    if stand_in:
        ruleset = _with_stand_in(ruleset, Identity(policy, facts.users, facts.containers), request.workload, direction)
    local = _local(facts, remote)
    found = evaluate(
        ruleset,
        Packet(
            direction=direction,
            protocol=port.protocol,
            source=remote if request.ingress else local,
            destination=local if request.ingress else remote,
            port=port.low,
            cgroup=cgroup,
            uid=uid,
            gid=gid,
            loopback=remote in facts.addresses or remote.is_loopback,
        ),
    )
    note = " (no process of it runs now)" if stand_in else ""
    return found.verdict, " > ".join(found.trail) + note


def _process(
    workload: str, direction: Direction, policy: HostPolicy, facts: HostFacts
) -> tuple[tuple[int, ...] | None, int | None, int | None, bool]:
    """The cgroup ids, the uid and the gid of a process of the workload, and whether it had to be imagined."""
    if workload == HOST_WORKLOAD:
        return None, None, None, False
    identity = Identity(policy, facts.users, facts.containers)
    process = next(w.process for w in policy.workloads if w.name == workload)
    kind = process.kind if process is not None else None
    if kind is ProcessKind.GROUP and direction == "in":
        raise WireError(f"the kernel does not tell a listener's group: what listens for {workload} is the host's")
    if process is not None and (kind is ProcessKind.GROUP or (kind is ProcessKind.USER and direction == "out")):
        owners = identity.groups if kind is ProcessKind.GROUP else identity.users
        number = next((n for n, name in owners.items() if name == workload), None)
        if number is None:
            raise WireError(
                f"this host knows no {kind} {process.pattern!r}: no process belongs to the workload {workload}"
            )
        return (), *((None, number) if kind is ProcessKind.GROUP else (number, None)), False
    for path in sorted(facts.cgroups):
        place = identity.place(path)
        if place.workload == workload:
            parts = path.split("/")
            above = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
            if all(p in facts.cgroups for p in above):
                return tuple(facts.cgroups[p] for p in above), None, None, False
    return (_NO_CGROUP,), None, None, True


def _with_stand_in(ruleset: Ruleset, identity: Identity, workload: str, direction: Direction) -> Ruleset:
    name = leaf_map(1, direction)
    if name not in ruleset.sets:
        raise KernelError(f"the table has no map {name}: it is not whole, and will be healed")
    key = struct.pack("=Q", _NO_CGROUP)
    elements = {**ruleset.sets[name].elements, key: goto(workload_chain(workload, direction))}
    changed = replace(ruleset.sets[name], elements=MappingProxyType(elements))
    return replace(ruleset, sets={**ruleset.sets, name: changed})


def _local(facts: HostFacts, remote: Address) -> Address:
    """An address of this host in the family of the other end."""
    own = sorted(a for a in facts.addresses if isinstance(a, type(remote)) and not a.is_loopback)
    if own:
        return own[0]
    return IPv4Address("0.0.0.0") if remote.version == 4 else IPv6Address("::")  # noqa: S104 - nothing is bound
