"""What a policy says of kinds of flows, by the ten thousand: `segctl.policy.decide` without asking every rule.

What can matter to a flow is what three numbers have in common: the bits of what names its local end, its remote one,
and of what covers its service (see `naming`). Where that is no boundary, the first of these rules decides; where it is,
`decide_end` does, with those rules alone that name both hosts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv6Address
from sys import intern

from segctl.model.inventory import Address, Host
from segctl.model.policy import HOST_WORKLOAD, Essentials, Mode, Policy, PortRange, Selector, Tags, Workload
from segctl.policy.decide import (
    EVERYWHERE,
    Decision,
    Direction,
    Instance,
    decide_end,
    ends_of,
    essential,
    is_live,
    matches,
)
from segctl.policy.selectors import InstanceFinder, SelectorIndex, coordinates

from segctl_controller.flowstore.naming import Bits, Held, Naming, places, rules_by_ports
from segctl_controller.flowstore.wire import address_of, service_of

BY_DEFAULT = Decision(False, "default")
DIRECTIONS: tuple[Direction, Direction] = ("egress", "ingress")
"""By whether a flow comes in."""
SOMEWHERE = IPv6Address(0)
MOST_PARSED = 20_000
"""Tag groups whose text is not parsed again: a fleet has thousands, and every question is about all of them."""


@dataclass(slots=True)
class Member:
    """A workload of a tag group, with its own tags."""

    workload: str
    held: Held
    bits: Bits
    mode: Mode


@dataclass(slots=True)
class Group:
    """The hosts with the tags `text`; their names are in no rule. `others` are the workloads that the policy tells from
    `host`, by name. `bits` are of what names any of them all."""

    text: str
    host: Member
    others: dict[str, Member]
    bits: Bits
    instances: tuple[Instance, ...] = ()
    """Set when they are first asked for; a host has one at least."""

    def member(self, workload: str) -> Member:
        """A workload that is not declared there is `host`."""
        return self.others.get(workload, self.host) if self.others else self.host


@dataclass(slots=True)
class Service:
    """`bits` are of the rules that cover it, and of all boundaries. `essential` out and in: whether it could be one."""

    port: PortRange
    bits: int
    essential: tuple[bool, bool]


class Decisions:
    """By the policy as it is at `now`, whatever the mode."""

    def __init__(self, policy: Policy, now: datetime) -> None:
        self._policy = replace(policy, rules=tuple(rule for rule in policy.rules if is_live(rule, now)))
        self._now = now
        self._rules = self._policy.rules
        self._first_boundary = 1 << len(self._rules)
        """Smaller numbers are of rules alone."""
        self._boundaries = ((1 << len(policy.boundaries)) - 1) << len(self._rules)
        self._naming = Naming(self._policy)
        self._exact = rules_by_ports(self._rules)
        self._wide = [(ports, rules) for ports, rules in self._exact.items() if ports.low != ports.high]
        self._workloads: SelectorIndex[Workload] = SelectorIndex()
        host_is_named = self._naming.speaks_of(HOST_WORKLOAD)
        for workload in policy.workloads.values():
            if host_is_named or workload.tags.pairs or self._naming.speaks_of(workload.name):
                self._workloads.add(workload, Selector(workload.on))
        self._lenient = replace(self._policy, essentials=_lenient(policy.essentials))
        self._finder = InstanceFinder(policy)
        self._passing: dict[int, Decision] = {}
        self._few: dict[int, Policy] = {}

    def group(self, text: str) -> Group:
        """`text` is `key=value,key=value`, sorted."""
        held = coordinates(parse_tags(text), None)
        host = Member(HOST_WORKLOAD, held, *self._naming.standing(HOST_WORKLOAD, held))
        others = {}
        source, destination = host.bits
        for workload in self._workloads.find(held):
            own = {**held, **dict(workload.tags.pairs)} if workload.tags.pairs else held
            other = Member(workload.name, own, *self._naming.standing(workload.name, own))
            source |= other.bits[0]
            destination |= other.bits[1]
            others[workload.name] = other
        return Group(text, host, others, (source, destination) if others else host.bits)

    def service(self, protocol: int, port: int) -> Service:
        asked = service_of(protocol, port)
        bits = self._boundaries | self._exact.get(asked, 0)
        for ports, rules in self._wide:
            bits |= rules if ports.covers(asked) else 0
        out, into = (essential(self._lenient, one, SOMEWHERE, asked) is not None for one in DIRECTIONS)
        return Service(asked, bits, (out, into))

    def between(self, ingress: int, here: Group, local: Member, there: Group, service: Service) -> Decision:
        """What the host of `local`, a member of `here`, does with a flow to or from a host of `there`. Essentials are
        not looked at, as they go by address."""
        touching = local.bits[ingress] & there.bits[1 - ingress] & service.bits
        if touching >= self._first_boundary:
            # A boundary may be passed under the cover of a rule between any two workloads of both hosts.
            few = here.bits[ingress] & there.bits[1 - ingress]
            return self._plainly(few, ingress, here, local, self._instances(there), service)
        while touching:
            bit = touching & -touching
            at = bit.bit_length() - 1
            within = self._rules[at].within
            if not within or _same_within(within, local, there, bit, 1 - ingress):
                return self._passed(at)
            touching ^= bit
        return BY_DEFAULT

    def _passed(self, at: int) -> Decision:
        known = self._passing.get(at)
        if known is None:
            rule = self._rules[at]
            known = self._passing[at] = Decision(True, "rule", rule.name, rule.where)
        return known

    def outside(self, ingress: int, here: Group, local: Member, remote: bytes, service: Service) -> Decision:
        """Like `between`, for an address of 16 bytes that no host holds; with the essentials."""
        direction = DIRECTIONS[ingress]
        passed = service.essential[ingress] and essential(self._policy, direction, address_of(remote), service.port)
        if passed:
            return passed
        touching = local.bits[ingress] & self._naming.with_peers[1 - ingress] & service.bits
        if touching >= self._first_boundary:
            return self._plainly(touching, ingress, here, local, address_of(remote), service)
        for at in places(touching):
            if matches(self._policy, ends_of(direction, self._rules[at])[1], address_of(remote)):
                return self._passed(at)
        return BY_DEFAULT

    def _plainly(
        self,
        few: int,
        ingress: int,
        here: Group,
        local: Member,
        remote: tuple[Instance, ...] | Address,
        service: Service,
    ) -> Decision:
        """By few rules, and all boundaries."""
        rules = few & (self._first_boundary - 1)
        policy = self._few.get(rules)
        if policy is None:
            policy = replace(self._policy, rules=tuple(self._rules[at] for at in places(rules)))
            self._few[rules] = policy
        instance = next(one for one in self._instances(here) if one.workload == local.workload)
        return decide_end(policy, DIRECTIONS[ingress], instance, remote, service.port, self._now)

    def _instances(self, group: Group) -> tuple[Instance, ...]:
        if not group.instances:
            group.instances = self._finder.of(Host("", parse_tags(group.text)))
        return group.instances


def _lenient(essentials: Essentials) -> Essentials:
    """Everywhere where they are anywhere."""
    dns, ntp, rescue = (EVERYWHERE if nets else () for nets in (essentials.dns, essentials.ntp, essentials.rescue))
    return replace(essentials, dns=dns, ntp=ntp, rescue=rescue)


def _same_within(keys: tuple[str, ...], local: Member, there: Group, bit: int, side: int) -> bool:
    """Whether any workload there that the rule of `bit` names at its `side` has the values of `local` for `keys`."""
    wanted = [local.held.get(key) for key in keys]
    if None in wanted:
        return False
    members = [member for member in (there.host, *there.others.values()) if member.bits[side] & bit]
    return any([member.held.get(key) for key in keys] == wanted for member in members)


@lru_cache(maxsize=MOST_PARSED)
def parse_tags(text: str) -> Tags:
    """Of `key=value,key=value`, as the store has them: sorted; neither keys nor values hold the two signs."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    return Tags(tuple([(intern(key), intern(value)) for key, _, value in pairs]))
