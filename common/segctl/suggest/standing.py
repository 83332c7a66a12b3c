"""What the policy says of an observation today, by the policy's own functions; whatever is alike is judged once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from segctl.model.inventory import Address, Host
from segctl.model.policy import HOST_WORKLOAD, Policy, PortRange, Rule, Tags
from segctl.policy.decide import (
    Direction,
    Instance,
    cutting_boundary,
    decide_end,
    effective_mode,
    essential,
    is_live,
)
from segctl.policy.selectors import InstanceFinder, SelectorIndex, coordinates

UNNAMED = "\0new"
"""The workload of a process that would get one of its own: no rule names it, and rules for `host` do not mean it."""


@dataclass(frozen=True, slots=True)
class Place:
    """One end as the policy sees it: a workload on hosts with these tags, or an address."""

    tags: Tags | None
    workload: str = HOST_WORKLOAD
    address: Address | None = None


class Standing:
    def __init__(self, policy: Policy, now: datetime) -> None:
        self._policy = replace(policy, rules=tuple(rule for rule in policy.rules if is_live(rule, now)))
        self._now = now
        self._instances = InstanceFinder(policy)
        self._groups: dict[Tags, tuple[Instance, ...]] = {}
        self._locals: dict[tuple[Place, bool], frozenset[int]] = {}
        self._known: dict[tuple[Direction, Place, Place, PortRange], bool] = {}
        self._indices: tuple[SelectorIndex[int], SelectorIndex[int]] = (SelectorIndex(), SelectorIndex())
        self._by_service: dict[PortRange, frozenset[int]] = {}
        for at, rule in enumerate(self._policy.rules):
            self._indices[0].add(at, rule.source)
            self._indices[1].add(at, rule.destination)

    def essential(self, source: Place, destination: Place, service: PortRange) -> bool:
        ends: tuple[tuple[Direction, Place], ...] = (("egress", destination), ("ingress", source))
        return any(
            far.address is not None and essential(self._policy, direction, far.address, service) is not None
            for direction, far in ends
        )

    def permits(self, source: Place, destination: Place, service: PortRange) -> bool:
        """Whether both ends let it pass: of an unmanaged end there is nobody to ask."""
        return self._end("egress", source, destination, service) and self._end("ingress", destination, source, service)

    def boundary(self, source: Place, destination: Place) -> str:
        """The name of the first boundary that denies the pair; empty where none does. A process that belongs to `host`
        today stays behind the boundaries of `host` whatever it will be called."""
        for near in self._variants(source):
            for far in self._variants(destination):
                if isinstance(near, Instance):
                    found = cutting_boundary(self._policy, "egress", near, far)
                elif isinstance(far, Instance):
                    found = cutting_boundary(self._policy, "ingress", far, near)
                else:
                    continue
                if found is not None:
                    return found.name
        return ""

    def weakens(self, tags: Tags) -> bool:
        """Whether a process leaves a stricter mode with the workload `host` on hosts with these tags."""
        here = next(i for i in self._group(tags) if i.workload == HOST_WORKLOAD)
        renamed = replace(here, workload=UNNAMED)
        return effective_mode(self._policy, renamed).strictness < effective_mode(self._policy, here).strictness

    def _variants(self, place: Place) -> list[Instance | Address]:
        if place.tags is None:
            return [place.address] if place.address is not None else []
        local = self._instance(place)
        return [local, replace(local, workload=HOST_WORKLOAD)] if local.workload == UNNAMED else [local]

    def _end(self, direction: Direction, local: Place, remote: Place, service: PortRange) -> bool:
        if local.tags is None:
            return True
        key = (direction, local, remote, service)
        if key not in self._known:
            self._known[key] = self._decide(direction, local, remote, service)
        return self._known[key]

    def _decide(self, direction: Direction, local: Place, remote: Place, service: PortRange) -> bool:
        rules = self._naming(local, direction == "ingress") & self._covering(service)
        if not rules:
            return False
        instance = self._instance(local)
        others: tuple[Instance, ...] | Address
        if remote.tags is None:
            assert remote.address is not None
            others = remote.address
        else:
            others = self._group(remote.tags)
        crossing = direction == "ingress" and self._policy.boundaries and remote.tags is not None
        policy = self._policy if crossing else replace(self._policy, rules=self._rules(rules))
        return decide_end(policy, direction, instance, others, service, self._now).allowed

    def _rules(self, chosen: frozenset[int]) -> tuple[Rule, ...]:
        return tuple(self._policy.rules[at] for at in sorted(chosen))

    def _naming(self, local: Place, far: bool) -> frozenset[int]:
        """The rules whose source, or whose destination, names the place."""
        known = self._locals.get((local, far))
        if known is None:
            instance = self._instance(local)
            found = self._indices[far].find(coordinates(instance.tags, instance.workload))
            known = self._locals[local, far] = frozenset(found)
        return known

    def _covering(self, service: PortRange) -> frozenset[int]:
        known = self._by_service.get(service)
        if known is None:
            rules = self._policy.rules
            found = (at for at, rule in enumerate(rules) if any(port.covers(service) for port in rule.ports))
            known = self._by_service[service] = frozenset(found)
        return known

    def _group(self, tags: Tags) -> tuple[Instance, ...]:
        if tags not in self._groups:
            self._groups[tags] = self._instances.of(Host("", tags))
        return self._groups[tags]

    def _instance(self, place: Place) -> Instance:
        assert place.tags is not None
        here = self._group(place.tags)
        found = next((i for i in here if i.workload == place.workload), None)
        if found is not None:
            return found
        rest = next(i for i in here if i.workload == HOST_WORKLOAD)
        return replace(rest, workload=UNNAMED) if place.workload == UNNAMED else rest
