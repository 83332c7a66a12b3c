"""What a draft would make of accepted flows: each kind of them is judged once, by the policy's own functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from segctl.model.inventory import Address, Host
from segctl.model.policy import HOST_WORKLOAD, Mode, Policy, PortRange, Rule, Selector, Tags
from segctl.policy.decide import (
    Decision,
    Direction,
    Instance,
    decide_end,
    effective_mode,
    ends_of,
    essential,
    is_live,
)
from segctl.policy.selectors import InstanceFinder

from segctl_controller.flowstore.records import DraftRow
from segctl_controller.flowstore.wire import address_of, service_of

WORKLOAD = ""
"""Stands for the workload among tag keys, of which none is empty."""
BY_DEFAULT = Decision(False, "default")
DIRECTIONS: tuple[Direction, Direction] = ("egress", "ingress")


@dataclass(frozen=True, slots=True)
class Blocked:
    row: DraftRow
    service: PortRange
    decision: Decision


@dataclass(frozen=True, slots=True)
class Verdicts:
    """`blocked` in the order of the rows; `judged` flows were looked at."""

    blocked: tuple[Blocked, ...]
    judged: int


def judge(rows: Iterable[DraftRow], policy: Policy, now: datetime) -> Verdicts:
    """Of each row the local end, as its host would: in the mode that its workload would have. Hosts are taken with the
    tags that they had at the time of the flow. Where a workload is no longer declared, its processes are `host`'s."""
    bench = _Bench(policy, now)
    blocked, judged = [], 0
    for row in rows:
        judged += row.flows
        decision = bench.decision(row)
        if decision is not None:
            blocked.append(Blocked(row, service_of(row.protocol, row.port), decision))
    return Verdicts(tuple(blocked), judged)


def keys_of(policy: Policy) -> frozenset[str]:
    """The tag keys that it asks for anywhere: hosts that differ in others only are judged alike."""
    selectors = [end for rule in policy.rules for end in (rule.source, rule.destination)]
    selectors += [end for boundary in policy.boundaries for end in (boundary.source, boundary.destination)]
    selectors += [mode.select for mode in policy.modes]
    asked = {key for selector in selectors for key, _ in selector.tags.pairs}
    asked |= {key for workload in policy.workloads.values() for key, _ in (*workload.on.pairs, *workload.tags.pairs)}
    return frozenset(asked | {key for rule in policy.rules for key in rule.within})


class _Bench:
    """Rules that cannot matter to an end are left out before it is judged: of thousands, those few are asked that name
    the local end, the remote one and the service. What is known of a tag group, or of a service, is kept."""

    def __init__(self, policy: Policy, now: datetime) -> None:
        self._policy = replace(policy, rules=tuple(rule for rule in policy.rules if is_live(rule, now)))
        self._now = now
        self._indices = {d: (_Index(self._policy.rules, d, 0), _Index(self._policy.rules, d, 1)) for d in DIRECTIONS}
        self._instances = InstanceFinder(self._policy)
        self._groups: dict[str, tuple[Instance, ...]] = {}
        self._locals: dict[tuple[str, str, bool], tuple[Instance, bool, int, bool]] = {}
        self._remotes: dict[tuple[str, bool], int] = {}
        self._services: dict[tuple[int, int], tuple[PortRange, int]] = {}
        self._few: dict[int, Policy] = {}

    def decision(self, row: DraftRow) -> Decision | None:
        """None: it would pass, or nothing there is enforced."""
        direction = DIRECTIONS[row.ingress]
        local, enforced, mine, crossing = self._local(row.tags, row.workload, row.ingress)
        if not enforced:
            return None
        service, covering = self._service(row.protocol, row.port)
        remote: tuple[Instance, ...] | Address
        if row.peer_tags is None:
            address = address_of(row.remote)
            if essential(self._policy, direction, address, service):
                return None
            remote, theirs = address, -1
        else:
            remote, theirs = self._group(row.peer_tags), self._remote(row.peer_tags, row.ingress)
        rules = mine & theirs & covering
        if not rules and not self._policy.boundaries:
            return BY_DEFAULT
        policy = self._policy if crossing else self._of_few_rules(rules)
        found = decide_end(policy, direction, local, remote, service, self._now)
        return None if found.allowed else found

    def _local(self, tags: str, workload: str, ingress: bool) -> tuple[Instance, bool, int, bool]:
        """The instance, whether its mode enforces, the rules that name it, and whether a boundary of it could be passed
        under the cover of a rule for another end: then all rules count."""
        known = self._locals.get((tags, workload, ingress))
        if known is None:
            here = self._group(tags)
            instance = next((i for i in here if i.workload == workload), None)
            instance = instance or next(i for i in here if i.workload == HOST_WORKLOAD)
            direction = DIRECTIONS[ingress]
            enforced = effective_mode(self._policy, instance) is Mode.ENFORCE
            bounded = ingress and any(
                _names(ends_of(direction, boundary)[0], instance) for boundary in self._policy.boundaries
            )
            known = (instance, enforced, self._indices[direction][0].naming([instance]), bounded)
            self._locals[tags, workload, ingress] = known
        return known

    def _remote(self, tags: str, ingress: bool) -> int:
        known = self._remotes.get((tags, ingress))
        if known is None:
            known = self._indices[DIRECTIONS[ingress]][1].naming(self._group(tags))
            self._remotes[tags, ingress] = known
        return known

    def _group(self, tags: str) -> tuple[Instance, ...]:
        """The workloads of a host with these tags. Its name is in no rule."""
        known = self._groups.get(tags)
        if known is None:
            known = self._groups[tags] = self._instances.of(Host("", parse_tags(tags)))
        return known

    def _service(self, protocol: int, port: int) -> tuple[PortRange, int]:
        known = self._services.get((protocol, port))
        if known is None:
            service, covering = service_of(protocol, port), 0
            for at, rule in enumerate(self._policy.rules):
                if any(p.covers(service) for p in rule.ports):
                    covering |= 1 << at
            known = self._services[protocol, port] = (service, covering)
        return known

    def _of_few_rules(self, chosen: int) -> Policy:
        known = self._few.get(chosen)
        if known is None:
            known = self._few[chosen] = replace(self._policy, rules=tuple(_chosen(self._policy.rules, chosen)))
        return known


class _Index:
    """Which rules could name an instance at one end, as bit masks. `end` 0: the local one."""

    def __init__(self, rules: Sequence[Rule], direction: Direction, end: int) -> None:
        self._every = 0
        self._asking: dict[str, int] = {}
        self._asking_for: dict[tuple[str, str], int] = {}
        for at, rule in enumerate(rules):
            selector = ends_of(direction, rule)[end]
            if selector.peer is not None:
                continue
            bit = 1 << at
            self._every |= bit
            workload = ((WORKLOAD, selector.workload),) if selector.workload is not None else ()
            for key, value in (*selector.tags.pairs, *workload):
                self._asking[key] = self._asking.get(key, 0) | bit
                self._asking_for[key, value] = self._asking_for.get((key, value), 0) | bit

    def naming(self, here: Iterable[Instance]) -> int:
        """Those that name any of them."""
        found = 0
        for instance in here:
            held = {**dict(instance.tags.pairs), WORKLOAD: instance.workload}
            missing = 0
            for key, asking in self._asking.items():
                missing |= asking & ~self._asking_for.get((key, held.get(key, "")), 0)
            found |= self._every & ~missing
        return found


def _chosen(rules: Sequence[Rule], mask: int) -> Iterable[Rule]:
    while mask:
        lowest = mask & -mask
        yield rules[lowest.bit_length() - 1]
        mask ^= lowest


def _names(selector: Selector, instance: Instance) -> bool:
    named = selector.workload is None or selector.workload == instance.workload
    return selector.peer is None and named and instance.tags.includes(selector.tags)


def parse_tags(text: str) -> Tags:
    """Of `key=value,key=value`, as the store has them; a value holds neither of the two signs."""
    return Tags.of(tuple(pair.split("=", 1)) for pair in text.split(",") if pair)  # type: ignore[misc]
