"""Why a connection passes or not: the verdict of both ends, the deciding rule, and what would change it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Literal

from segctl.errors import PolicyError
from segctl.model.findings import NOWHERE, Finding, Severity
from segctl.model.inventory import Address, Host, Inventory
from segctl.model.policy import HOST_WORKLOAD, Mode, Policy, PortRange, Rule, Selector
from segctl.policy.decide import (
    Decision,
    Direction,
    Instance,
    cutting_boundary,
    decide_end,
    effective_mode,
    essential,
    instances,
    is_live,
    matches,
    same_within,
)
from segctl.policy.offer import offer_rule
from segctl.policy.propose import End

Verdict = Literal["allowed", "denied", "would-deny"]


@dataclass(frozen=True, slots=True)
class EndVerdict:
    """One end. `verdict` is what its host does in its mode: in observe everything is allowed, in test a denial is only
    reported. `decision` is what the policy says whatever the mode."""

    instance: Instance
    direction: Direction
    mode: Mode
    decision: Decision
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Explanation:
    verdict: Verdict
    source: End
    destination: End
    port: PortRange
    ends: tuple[EndVerdict, ...]
    nearest_rule: str = ""
    nearest_why: str = ""
    suggestion: str = ""
    notes: tuple[str, ...] = ()


def explain(
    policy: Policy, inventory: Inventory, source: str, destination: str, service: str, now: datetime
) -> Explanation:
    """Explains SOURCE to DESTINATION for SERVICE.

    An end is HOST, HOST/WORKLOAD, an address, or the name of a peer (its first address). A service is the name of a
    declared one with a single port, or a literal such as tcp/5432. Raises PolicyError naming what is unknown.
    """
    port = parse_service(policy, service)
    a, b = parse_end(policy, inventory, source), parse_end(policy, inventory, destination)
    notes = [*_workload_note(policy, inventory, source, a), *_workload_note(policy, inventory, destination, b)]
    return explain_ends(policy, inventory, a, b, port, now, tuple(notes))


def explain_ends(
    policy: Policy,
    inventory: Inventory,
    source: End,
    destination: End,
    port: PortRange,
    now: datetime,
    notes: tuple[str, ...] = (),
) -> Explanation:
    if port.protocol in ("icmp", "icmpv6") and isinstance(destination, Instance):
        notes = (*notes, *_icmp_note(destination))
        destination = _instance(policy, inventory.hosts[destination.host], HOST_WORKLOAD)
    if isinstance(source, Instance) and isinstance(destination, Instance) and source.host == destination.host:
        here = "both ends are on one host: traffic on the loopback interface is an essential and always passes"
        return Explanation("allowed", source, destination, port, (), notes=(*notes, here))
    ends = tuple(_ends(policy, inventory, source, destination, port, now))
    if not ends:
        here = "neither end is an enrolled host: segctl has no say in it"
        return Explanation("allowed", source, destination, port, (), notes=(*notes, here))
    notes = (
        *notes,
        *_crossing_note(policy, ends, source, destination),
        *_partly_essential(policy, inventory, ends, source, destination, port),
    )
    verdict = overall(e.verdict for e in ends)
    if all(e.decision.allowed for e in ends):
        notes = (*notes, *_end_note(policy, inventory, source, destination, port, now))
        rules = {e.decision.name for e in ends if e.decision.reason == "rule"}
        crossed = len(rules) > 1 and not any(_whole(policy, r, source, destination, port, now) for r in policy.rules)
        more = ("no single rule permits this pair: each end is let through by a rule of its own",) if crossed else ()
        return Explanation(verdict, source, destination, port, ends, notes=(*notes, *more))
    cut = next((e.decision.name for e in ends if e.decision.reason == "boundary"), _cut(policy, source, destination))
    if cut:
        notes = (*notes, f"boundary {cut} denies this whatever rules allow: no rule can open it")
        return Explanation(verdict, source, destination, port, ends, notes=notes)
    nearest = nearest_rule(policy, source, destination, port, now)
    offer = offer_rule(policy, inventory, source, destination, port, now)
    return Explanation(
        verdict,
        source,
        destination,
        port,
        ends,
        nearest_rule=nearest[0].name if nearest else "",
        nearest_why=nearest[1] if nearest else "",
        suggestion=offer.text,
        notes=(*notes, offer.refusal) if offer.refusal else notes,
    )


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Denied where one end denies, would-deny where one would, else allowed."""
    seen = set(verdicts)
    return "denied" if "denied" in seen else "would-deny" if "would-deny" in seen else "allowed"


def mode_verdict(mode: Mode, allowed: bool) -> Verdict:
    if allowed or mode is Mode.OBSERVE:
        return "allowed"
    return "denied" if mode is Mode.ENFORCE else "would-deny"


def _ends(
    policy: Policy, inventory: Inventory, source: End, destination: End, port: PortRange, now: datetime
) -> Iterable[EndVerdict]:
    pairs: tuple[tuple[Direction, End, End], ...] = (
        ("egress", source, destination),
        ("ingress", destination, source),
    )
    for direction, local, remote in pairs:
        if not isinstance(local, Instance):
            continue
        if isinstance(remote, Instance):
            host = inventory.hosts[remote.host]
            others: tuple[Instance, ...] | Address = instances(policy, host)
            addresses: tuple[Address, ...] | Address = host.addresses
        else:
            others = addresses = remote
        decision = essential(policy, direction, addresses, port) or decide_end(
            policy, direction, local, others, port, now
        )
        mode = effective_mode(policy, local)
        yield EndVerdict(local, direction, mode, decision, mode_verdict(mode, decision.allowed))


def _end_note(
    policy: Policy, inventory: Inventory, source: End, destination: End, port: PortRange, now: datetime
) -> Iterable[str]:
    """When a permission ends by itself, asked of the same decision at later moments.

    What decides an end goes on to do so while its rule lives (a rule that ends opens nothing), so only the moments at
    which a deciding rule ends are looked at.
    """
    rules = {r.name: r for r in policy.rules}
    last: Rule | None = None
    while True:
        ends = tuple(_ends(policy, inventory, source, destination, port, last.until if last and last.until else now))
        if last is not None and not all(e.decision.allowed for e in ends):
            yield f"rule {last.name} permits until {last.expires} (UTC), and then nothing else does"
            return
        deciding = (rules[e.decision.name] for e in ends if e.decision.reason == "rule")
        ending = [r for r in deciding if r.until is not None]
        if not ending:
            return
        last = min(ending, key=lambda r: r.until or now)


def _whole(policy: Policy, rule: Rule, source: End, destination: End, port: PortRange, now: datetime) -> bool:
    return (
        is_live(rule, now)
        and any(p.covers(port) for p in rule.ports)
        and matches(policy, rule.source, source)
        and matches(policy, rule.destination, destination)
        and _within_holds(rule, source, destination)
    )


def _within_holds(rule: Rule, source: End, destination: End) -> bool:
    if isinstance(source, Instance) and isinstance(destination, Instance):
        return same_within(rule, source.tags, destination.tags)
    return True


def nearest_rule(
    policy: Policy, source: End, destination: End, port: PortRange, now: datetime
) -> tuple[Rule, str] | None:
    """The rule that has most of the connection already, and what it lacks, in words. None without any near rule.

    A service or a named end that fits counts; that everything is named, this end too, does not.
    """
    best: tuple[tuple[int, int], Rule, str] | None = None
    for rule in policy.rules:
        lacks: list[str] = []
        has = 0
        if matches(policy, rule.source, source):
            has += _weight(rule.source)
        else:
            lacks.append(f"it is from {rule.source}, not {_say(source)}")
        if matches(policy, rule.destination, destination):
            has += _weight(rule.destination)
        else:
            lacks.append(f"it is to {rule.destination}, not {_say(destination)}")
        if len(lacks) == 2:
            continue  # a rule between other ends is not near
        if any(p.covers(port) for p in rule.ports):
            has += 4
        else:
            lacks.append(f"it allows {', '.join(rule.allow)}, not {port}")
        if not _within_holds(rule, source, destination):
            lacks.append(f"the two ends differ in {' or '.join(rule.within)}")
        if not is_live(rule, now):
            lacks.append(f"it expired on {rule.expires}")
        rank = (has, -len(lacks))
        if has and lacks and (best is None or rank > best[0]):
            best = (rank, rule, "; ".join(lacks))
    return (best[1], best[2]) if best else None


def _weight(selector: Selector) -> int:
    """How much an end that fits says: a service is worth 4, for who asks about a service means that one."""
    if selector.workload is not None or selector.peer is not None:
        return 3
    return 2 if selector.tags.pairs else 0


def _cut(policy: Policy, source: End, destination: End) -> str:
    if isinstance(source, Instance):
        boundary = cutting_boundary(policy, "egress", source, destination)
    elif isinstance(destination, Instance):
        boundary = cutting_boundary(policy, "ingress", destination, source)
    else:
        boundary = None
    return boundary.name if boundary else ""


def _say(end: End) -> str:
    return f"{end} ({end.tags})" if isinstance(end, Instance) and end.tags.pairs else str(end)


def parse_service(policy: Policy, text: str) -> PortRange:
    """A declared service of one port range, or a literal `PROTOCOL/NUMBER`."""
    if text in policy.services:
        ports = policy.services[text].ports
        if len(ports) == 1:
            return ports[0]
        raise _unknown(f"service {text} is {', '.join(map(str, ports))}", "ask about one of them")
    protocol, _, number = text.partition("/")
    if protocol in ("tcp", "udp", "icmp", "icmpv6") and number.isascii() and number.isdigit():
        value = int(number)
        if value <= (65535 if protocol in ("tcp", "udp") else 255):
            return PortRange(protocol, value, value)  # type: ignore[arg-type]  # narrowed by the test above
    if protocol == "ip":
        raise _unknown(
            f"{text} is an IP protocol that no rule can name yet: rules know TCP, UDP, ICMP and ICMPv6",
            "hosts in the mode enforce refuse it",
        )
    raise _unknown(f"service {text!r} is neither declared nor a literal", "write it like tcp/5432")


def parse_end(policy: Policy, inventory: Inventory, text: str) -> End:
    """HOST, HOST/WORKLOAD, an address (of a host: that host's workload `host`), or a peer's name."""
    name, _, workload = text.partition("/")
    if name in inventory.hosts:
        return _instance(policy, inventory.hosts[name], workload or HOST_WORKLOAD)
    if not workload and text in policy.peers:
        return policy.peers[text].networks[0].network_address
    try:
        address = ip_address(text)
    except ValueError:
        raise _unknown(
            f"{text!r} is neither an enrolled host, HOST/WORKLOAD, an address nor a peer",
            "`segctl host list` names the hosts",
        ) from None
    holder = inventory.holder(address)
    return _instance(policy, holder, HOST_WORKLOAD) if holder else address


def _instance(policy: Policy, host: Host, workload: str) -> Instance:
    here = instances(policy, host)
    found = next((i for i in here if i.workload == workload), None)
    if found is None:
        raise _unknown(
            f"host {host.name} has no workload {workload!r}", f"it has {', '.join(i.workload for i in here)}"
        )
    return found


def _crossing_note(policy: Policy, ends: Iterable[EndVerdict], source: End, destination: End) -> Iterable[str]:
    for end in ends:
        if end.direction != "ingress" or end.decision.reason != "boundary" or not isinstance(source, Instance):
            continue
        if cutting_boundary(policy, "ingress", end.instance, source) is None:
            yield (
                f"boundary {end.decision.name} forbids this to another workload of {source.host}, which may call"
                f" {end.instance.host} on such a port; {end.instance.host} cannot tell them apart, so it refuses both"
            )


def _icmp_note(destination: Instance) -> list[str]:
    if destination.workload == HOST_WORKLOAD:
        return []
    return [f"ICMP is answered by the kernel of {destination.host} and not by {destination.workload}: host decides it"]


def _partly_essential(
    policy: Policy,
    inventory: Inventory,
    ends: Iterable[EndVerdict],
    source: End,
    destination: End,
    port: PortRange,
) -> Iterable[str]:
    """Essentials go by address: a host of which only some addresses are listed passes for these alone."""
    for end in ends:
        remote = destination if end.direction == "egress" else source
        if end.decision.allowed or not isinstance(remote, Instance):
            continue
        for address in inventory.hosts[remote.host].addresses:
            found = essential(policy, end.direction, address, port)
            if found:
                yield f"the essential {found.name} passes {address} of {remote.host}, not its other addresses"


def _workload_note(policy: Policy, inventory: Inventory, text: str, end: End) -> list[str]:
    if not isinstance(end, Instance) or "/" in text:
        return []
    named = [i.workload for i in instances(policy, inventory.hosts[end.host]) if i.workload != HOST_WORKLOAD]
    if not named:
        return []
    others = ", ".join(f"{end.host}/{n}" for n in named)
    return [f"{text} stands for the processes of {end.host} that no workload names; the others are {others}"]


def _unknown(message: str, hint: str) -> PolicyError:
    return PolicyError([Finding(NOWHERE, Severity.ERROR, "unknown", message, hint)])
