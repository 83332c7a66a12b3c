"""Explain: what the policy says, and beside it what the kernels of the connected hosts say now."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from segctl.errors import SegctlError
from segctl.model.inventory import Address
from segctl.model.policy import PortRange
from segctl.policy.decide import Instance
from segctl.policy.explain import EndVerdict, explain
from segctl.policy.propose import End
from segctl.proto.v1 import admin_pb2, agent_pb2
from segctl.wire import address_to_wire, port_range_to_wire

from segctl_controller.clock import Clock
from segctl_controller.errors import InvalidRequestError
from segctl_controller.registry import Registry

PROBE_SECONDS = 3.0
LONGEST_NAME = 256
STRICTNESS = ("allowed", "would-deny", "denied")


async def explained(request: admin_pb2.ExplainRequest, registry: Registry, clock: Clock) -> admin_pb2.ExplainReply:
    """Raises PolicyError for an unknown host, workload, peer or service."""
    if max(len(request.source), len(request.destination), len(request.service)) > LONGEST_NAME:
        raise InvalidRequestError(f"source, destination and service have at most {LONGEST_NAME} characters")
    fleet = registry.fleet
    active = fleet.active
    answer = explain(active.policy, fleet.inventory, request.source, request.destination, request.service, clock.now())
    ends = [_end(verdict) for verdict in answer.ends]
    notes = list(answer.notes)
    if request.live:
        remotes = (answer.destination if e.direction == "egress" else answer.source for e in answer.ends)
        await asyncio.gather(
            *(
                _ask(registry, view, _addresses(registry, remote, answer.port), answer.port)
                for view, remote in zip(ends, remotes, strict=True)
            )
        )
        notes.extend(
            f"{view.host} is {fleet.state(view.host)}: its kernel {_may_hold(fleet.state(view.host))}"
            for view in ends
            if view.kernel_verdict and fleet.state(view.host) != "in-sync"
        )
    return admin_pb2.ExplainReply(
        verdict=answer.verdict,
        ends=ends,
        nearest_rule=answer.nearest_rule,
        nearest_why=answer.nearest_why,
        suggestion=answer.suggestion,
        notes=notes,
        # Before the first push there is no policy that a kernel could differ from.
        differs=bool(active.number) and any(e.kernel_verdict not in ("", e.verdict) for e in ends),
        generation=active.number,
    )


def _end(verdict: EndVerdict) -> admin_pb2.EndVerdict:
    decision = verdict.decision
    return admin_pb2.EndVerdict(
        host=verdict.instance.host,
        workload=verdict.instance.workload,
        direction=verdict.direction,
        verdict=verdict.verdict,
        mode=verdict.mode.value,
        reason=decision.reason,
        rule=decision.name,
        position=str(decision.position) if decision.name and decision.position.line else "",
    )


def _may_hold(state: str) -> str:
    return "enforces nothing" if state == "released" else "may hold an older policy"


def _addresses(registry: Registry, remote: End, port: PortRange) -> tuple[Address, ...]:
    """One address a family: the rules of a host's addresses differ by family at most."""
    if not isinstance(remote, Instance):
        return (remote,)
    version = {"icmp": 4, "icmpv6": 6}.get(port.protocol)
    record = registry.fleet.hosts.get(remote.host)
    by_family: dict[int, Address] = {}
    for address in record.addresses if record else ():
        if version in (None, address.version):
            by_family.setdefault(address.version, address)
    return tuple(by_family.values())


async def _ask(registry: Registry, view: admin_pb2.EndVerdict, remotes: Sequence[Address], port: PortRange) -> None:
    """Fill in the kernel's verdict: the strictest over the remote addresses."""
    session = registry.reach(view.host)
    if session is None:
        view.kernel_detail = "not asked: its agent is not connected"
        return
    if not remotes:
        view.kernel_detail = "not asked: the other host holds no address"
        return
    details = []
    for remote in remotes:
        question = agent_pb2.ProbeRequest(
            ingress=view.direction == "ingress",
            workload=view.workload,
            remote=address_to_wire(remote),
            service=port_range_to_wire(port),
        )
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                reply = await session.probe(question)
        except TimeoutError:
            details.append(f"{remote}: no answer within {PROBE_SECONDS:.0f} seconds")
            continue
        except SegctlError as error:
            details.append(f"{remote}: {error}")
            continue
        if reply.error or reply.verdict not in STRICTNESS:
            details.append(f"{remote}: {reply.error[:500] or 'an answer that is no verdict'}")
            continue
        details.append(f"{remote}: {reply.verdict} ({reply.detail[:500]})")
        view.kernel_verdict = max(view.kernel_verdict or "allowed", reply.verdict, key=STRICTNESS.index)
    view.kernel_detail = "; ".join(details)
