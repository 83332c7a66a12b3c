"""The one change that would allow a denied connection: a rule, and what must be declared for it.

Whether it may be offered is another question: see `segctl.policy.offer`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_network

from segctl.model.inventory import Address
from segctl.model.policy import (
    HOST_WORKLOAD,
    PLACEHOLDER,
    Peer,
    Policy,
    PortRange,
    Process,
    ProcessKind,
    Rule,
    Selector,
    Tags,
    Workload,
)
from segctl.policy.decide import EVERYWHERE, Instance
from segctl.policy.syntax.grammar import MAX_NAME, read_process

End = Instance | Address

_SESSION = re.compile(r"session-.*\.scope|user@.*\.service")
"""Units of logins (systemd-logind(8), user@.service(5)): what runs in them is the user's, not the unit's."""
_ROOT = ("root", "0")


@dataclass(frozen=True, slots=True)
class Seen:
    """The unit and user of a process, as its host told them; empty where they are not known."""

    unit: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True)
class Proposal:
    """`source` and `destination` are the ends as they are once `workloads` are declared."""

    rule: Rule
    source: End
    destination: End
    workloads: tuple[Workload, ...] = ()
    peers: tuple[Peer, ...] = ()
    remarks: tuple[str, ...] = ()

    def added_to(self, policy: Policy) -> Policy:
        """The policy with the proposal's file in its folder."""
        return replace(
            policy,
            workloads={**policy.workloads, **{w.name: w for w in self.workloads}},
            peers={**policy.peers, **{p.name: p for p in self.peers}},
            rules=(*policy.rules, self.rule),
        )

    def text(self) -> str:
        """A policy file of its own, as a person would write it; without a line break at its end."""
        sections = [["version: 1"]]
        if self.peers:
            sections.append(["peers:", *(f"  {p.name}: [{_networks(p)}]" for p in self.peers)])
        if self.workloads:
            sections.append(["workloads:", *(line for w in self.workloads for line in _workload_lines(w))])
        sections.append(["rules:", *(f"  # {remark}" for remark in self.remarks), *_rule_lines(self.rule)])
        return "\n\n".join("\n".join(lines) for lines in sections)


def service_name(policy: Policy, port: PortRange) -> str:
    """The declared service that is exactly this port, or the literal."""
    return next((s.name for s in policy.services.values() if s.ports == (port,)), str(port))


def propose_rule(
    policy: Policy,
    source: End,
    destination: End,
    port: PortRange,
    source_process: Seen | None = None,
    destination_process: Seen | None = None,
) -> Proposal | str:
    """The rule with the workload and peer declarations it needs, or why there is none.

    A process that was seen and belongs to no declared workload gets one, rather than that the whole host be opened:
    by its unit, or in a login by its user. None stands for a process of which nobody could know.
    """
    if port.protocol in ("tcp", "udp") and not port.low:
        return f"{port}: port 0 cannot be named by a rule"
    shared = _shared(policy, source, destination)
    selectors: list[Selector] = []
    ends: list[End] = []
    words: list[str] = []
    workloads: list[Workload] = []
    peers: list[Peer] = []
    remarks: list[str] = []
    for end, seen in ((source, source_process), (destination, destination_process)):
        if not isinstance(end, Instance):
            peer, new = _peer(policy, end)
            peers += [peer] if new else []
            selectors.append(Selector(peer=peer.name))
            ends.append(end)
            words.append(peer.name)
            continue
        made = _workload(policy, end, seen) if end.workload == HOST_WORKLOAD and seen else None
        if isinstance(made, str):
            return made
        if made:
            workloads.append(made)
            end = replace(end, workload=made.name)
        elif end is source and end.workload == HOST_WORKLOAD:
            more = "" if seen else "; segctl denied --suggest names the process"
            remarks.append(f"opens every process of {end.host} that no workload names{more}")
        selectors.append(_selector(policy, end, shared))
        ends.append(end)
        words.append(end.workload if end.workload != HOST_WORKLOAD else end.tags.get("role") or end.host)
    service = service_name(policy, port)
    name = _free(_slug(f"{words[0]}-to-{words[1]}-{service}"), {r.name for r in policy.rules})
    rule = Rule(name, selectors[0], selectors[1], (service,), (port,), shared, PLACEHOLDER, PLACEHOLDER)
    return Proposal(rule, ends[0], ends[1], tuple(workloads), tuple(peers), tuple(remarks))


def _shared(policy: Policy, source: End, destination: End) -> tuple[str, ...]:
    """The declared tags whose value both ends share: a rule within them serves every environment."""
    if not (isinstance(source, Instance) and isinstance(destination, Instance)):
        return ()
    return tuple(
        k for k in policy.tags if source.tags.get(k) is not None and source.tags.get(k) == destination.tags.get(k)
    )


def _selector(policy: Policy, end: Instance, shared: tuple[str, ...]) -> Selector:
    if end.workload != HOST_WORKLOAD:
        return Selector(workload=end.workload)
    tags = _declared(policy, end.tags)
    return Selector(Tags.of((k, v) for k, v in tags.pairs if k not in shared), HOST_WORKLOAD)


def _declared(policy: Policy, tags: Tags) -> Tags:
    """The tags that a policy file may name: a host can carry others."""
    return Tags.of((k, v) for k, v in tags.pairs if v in policy.tags.get(k, ()))


def _workload(policy: Policy, end: Instance, seen: Seen) -> Workload | str | None:
    """A workload for the process, why it gets none and its host must not be opened, or None when it has no unit."""
    container = _container(seen.unit)
    if container is not None:
        name = _free(_slug(container.pattern), {*policy.workloads, HOST_WORKLOAD})
        return Workload(name, _declared(policy, end.tags), container)
    if not _is_unit(seen.unit):
        return None
    wanted = re.sub(r"\.[a-z]+$", "", seen.unit)
    process = Process(ProcessKind.UNIT, re.sub(r"@.*(?=\.)", "@*", seen.unit))
    if _SESSION.fullmatch(seen.unit):
        by_user = read_process(ProcessKind.USER, seen.user)
        if seen.user in _ROOT or not isinstance(by_user, Process):
            who = "root" if seen.user in _ROOT else "an unknown user"
            return (
                f"{who} in a login on {end.host} ({seen.unit}) is no workload to open: "
                "run the program as a service, or as a user of its own"
            )
        wanted, process = seen.user, by_user
    name = _free(_slug(wanted), {*policy.workloads, HOST_WORKLOAD})
    return Workload(name, _declared(policy, end.tags), process)


def _container(unit: str) -> Process | None:
    """What an agent calls a container in the place of a unit, `container:NAME`, by that very name."""
    kind, _, name = unit.partition(":")
    process = read_process(ProcessKind.CONTAINER, name)
    usable = kind == ProcessKind.CONTAINER.value and isinstance(process, Process) and not set(name) & set("*?[]")
    return process if usable and isinstance(process, Process) else None


def _is_unit(unit: str) -> bool:
    """The name of one unit. A host says it, and an operator pastes what is made of it: no globs, no YAML."""
    return not set(unit) & set("*?[") and isinstance(read_process(ProcessKind.UNIT, unit), Process)


def _peer(policy: Policy, address: Address) -> tuple[Peer, bool]:
    """The peer of the smallest declared network around the address, or a new one and True."""
    covering = [
        (n.prefixlen, p.name) for p in policy.peers.values() for n in p.networks if address in n and n not in EVERYWHERE
    ]
    if covering:
        return policy.peers[max(covering)[1]], False
    return Peer(_free(_slug(f"peer-{address}"), policy.peers), (ip_network(address),)), True


def _free(wanted: str, taken: Collection[str]) -> str:
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted[: MAX_NAME - 6].rstrip('-')}-{number}", number + 1
    return name


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:MAX_NAME].strip("-") or "rule"


def _rule_lines(rule: Rule) -> Iterator[str]:
    yield f"  - name: {rule.name}"
    yield f"    from: {{{_inside(rule.source)}}}"
    yield f"    to: {{{_inside(rule.destination)}}}"
    if rule.within:
        yield f"    within: [{', '.join(rule.within)}]"
    yield f"    allow: [{', '.join(rule.allow)}]"
    yield f"    owner: {rule.owner}"
    yield f"    why: {rule.why}"


def _workload_lines(workload: Workload) -> Iterator[str]:
    pattern = workload.process.pattern
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", pattern):
        pattern = '"' + pattern.replace("\\", "\\\\") + '"'
    yield f"  {workload.name}:"
    yield f"    on: {{{_pairs(workload.on)}}}"
    yield f"    process: {{{workload.process.kind.value}: {pattern}}}"


def _inside(selector: Selector) -> str:
    if selector.peer is not None:
        return f"peer: {selector.peer}"
    return ", ".join(part for part in (f"workload: {selector.workload}", _pairs(selector.tags)) if part)


def _pairs(tags: Tags) -> str:
    return ", ".join(f"{k}: {v}" for k, v in tags.pairs)


def _networks(peer: Peer) -> str:
    return ", ".join(f'"{n.network_address}"' if n.version == 6 else str(n.network_address) for n in peer.networks)
