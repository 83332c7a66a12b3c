"""The one change that would allow a denied connection, as policy text ready to paste and to review."""

from __future__ import annotations

import re

from segctl.model.inventory import Address
from segctl.model.policy import HOST_WORKLOAD, Policy, PortRange, Process, ProcessKind
from segctl.policy.decide import EVERYWHERE, Instance
from segctl.policy.syntax.grammar import read_process

End = Instance | Address


def service_name(policy: Policy, port: PortRange) -> str:
    """The declared service that is exactly this port, or the literal."""
    return next((s.name for s in policy.services.values() if s.ports == (port,)), str(port))


def propose_rule(
    policy: Policy, source: End, destination: End, port: PortRange, source_unit: str = "", destination_unit: str = ""
) -> str:
    """YAML of the rule, with the workload and peer declarations it needs.

    The units are those of the processes seen, where one is known and belongs to no declared workload: the proposal
    then declares a workload for it rather than open the whole host.
    """
    declarations: dict[str, list[str]] = {}
    service = service_name(policy, port)
    shared = _shared(policy, source, destination)
    ends = [
        _end(policy, end, unit, shared, declarations)
        for end, unit in ((source, source_unit), (destination, destination_unit))
    ]
    name = _slug(f"{ends[0][0]}-to-{ends[1][0]}-{service}")
    rule = [f"name: {name}", f"from: {{{ends[0][1]}}}", f"to: {{{ends[1][1]}}}"]
    if shared:
        rule.append(f"within: [{', '.join(shared)}]")
    rule += [f"allow: [{service}]", "owner: CHANGE-ME", "why: CHANGE-ME"]
    lines = [f"{section}:\n" + "\n".join(f"  {d}" for d in decls) for section, decls in declarations.items()]
    return "\n".join([*lines, f"rules:\n  - {{{', '.join(rule)}}}"])


def _shared(policy: Policy, source: End, destination: End) -> tuple[str, ...]:
    """The declared tags whose value both ends share: a rule within them serves every environment."""
    if not (isinstance(source, Instance) and isinstance(destination, Instance)):
        return ()
    return tuple(
        k for k in policy.tags if source.tags.get(k) is not None and source.tags.get(k) == destination.tags.get(k)
    )


def _end(
    policy: Policy, end: End, unit: str, shared: tuple[str, ...], declarations: dict[str, list[str]]
) -> tuple[str, str]:
    """(a short name, the inside of the selector)"""
    if not isinstance(end, Instance):
        return _peer(policy, end, declarations)
    if end.workload != HOST_WORKLOAD:
        return end.workload, f"workload: {end.workload}"
    tags = ", ".join(f"{k}: {v}" for k, v in end.tags.pairs if k not in shared)
    if _is_unit(unit):
        name = _free_name(policy, _slug(re.sub(r"\.(service|scope|socket)$", "", unit)))
        on = ", ".join(f"{k}: {v}" for k, v in end.tags.pairs)
        pattern = re.sub(r"@[^.]*\.", "@*.", unit).replace("\\", "\\\\")
        declarations.setdefault("workloads", []).append(f'{name}: {{on: {{{on}}}, process: {{unit: "{pattern}"}}}}')
        return name, f"workload: {name}"
    return end.tags.get("role") or end.host, f"workload: {HOST_WORKLOAD}" + (f", {tags}" if tags else "")


def _is_unit(unit: str) -> bool:
    """The name of one unit. A host says it, and an operator pastes what is made of it: no globs, no YAML."""
    return not set(unit) & set("*?[") and isinstance(read_process(ProcessKind.UNIT, unit), Process)


def _free_name(policy: Policy, wanted: str) -> str:
    name, number = wanted, 2
    while name in policy.workloads or name == HOST_WORKLOAD:
        name, number = f"{wanted[:34].rstrip('-')}-{number}", number + 1
    return name


def _peer(policy: Policy, address: Address, declarations: dict[str, list[str]]) -> tuple[str, str]:
    covering = [
        (n.prefixlen, p.name) for p in policy.peers.values() for n in p.networks if address in n and n not in EVERYWHERE
    ]
    if covering:
        name = max(covering)[1]
    else:
        name = _slug(f"peer-{address}")
        declarations.setdefault("peers", []).append(f'{name}: ["{address}"]')
    return name, f"peer: {name}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "rule"
