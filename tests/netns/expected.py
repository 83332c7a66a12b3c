"""What must become of a probe between two processes of the fleet, in the words of the explainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from random import Random

from segctl.model.hostpolicy import HostPolicy
from segctl.model.inventory import Inventory
from segctl.model.policy import HOST_WORKLOAD, Policy, PortRange, ProcessKind
from segctl.policy.decide import Instance, instances
from segctl.policy.explain import EndVerdict, Verdict, explain_ends
from segctl_agent.facts.values import Address
from segctl_agent.identity import Identity, Inner

from tests.netns.fleet import PLACES, PORTS, Attempt, address
from tests.netns.randompolicy import TODAY


@dataclass(frozen=True, slots=True)
class Probe:
    """From process `place` of member `member` to process `to_place` of member `to_member`."""

    member: int
    place: int
    to_member: int
    to_place: int
    port: PortRange
    version: int

    @property
    def attempt(self) -> Attempt:
        source, destination = (
            address(m, p, 4 if self.version == 4 else 6)
            for m, p in ((self.member, self.place), (self.to_member, self.to_place))
        )
        return Attempt(source, destination, self.port)

    @property
    def icmp(self) -> bool:
        return self.port.protocol.startswith("icmp")


def owner(policy: Policy, inventory: Inventory, host: str, place: int, direction: str) -> Instance:
    """Which workload a process belongs to, as docs/architecture.md says it, in the plainest words."""
    here = {i.workload: i for i in instances(policy, inventory.hosts[host])}
    path, uid = PLACES[place].cgroup.split("/"), PLACES[place].uid
    unit = next(c for c in path if not c.endswith(".slice"))
    kinds = (ProcessKind.CGROUP, ProcessKind.UNIT, ProcessKind.USER)
    found = []
    for name in here:
        if name == HOST_WORKLOAD:
            continue
        process = policy.workloads[name].process
        pattern = process.pattern
        if process.kind is ProcessKind.CGROUP:
            parts = pattern.split("/")
            hit = len(parts) <= len(path) and all(map(fnmatchcase, path, parts))
        elif process.kind is ProcessKind.UNIT:
            hit = fnmatchcase(unit, pattern)
        else:
            wanted = 33 if pattern == "www-data" else int(pattern)
            hit = uid == wanted if direction == "out" else path[1] == f"user-{wanted}.slice"
        if hit:
            glob = any(c in pattern for c in "*?[")
            found.append((kinds.index(process.kind), glob, -len(pattern), name))
    return here[min(found)[3]] if found else here[HOST_WORKLOAD]


@dataclass(frozen=True, slots=True)
class Expectation:
    """One policy, compiled for the hosts that have an agent, by their number."""

    policy: Policy
    inventory: Inventory
    host_policies: Mapping[int, HostPolicy]

    def _end(self, member: int, place: int, direction: str, at: Address) -> Instance | Address:
        if member not in self.host_policies:
            return at
        if direction == "none":  # a ping is answered by the kernel, not by a process
            named = instances(self.policy, self.inventory.hosts[f"h{member}"])
            return next(i for i in named if i.workload == HOST_WORKLOAD)
        return owner(self.policy, self.inventory, f"h{member}", place, direction)

    def expected(self, probe: Probe) -> tuple[dict[str, Verdict], str]:
        """The explainer's verdict of each end that has an agent, and what it said for a failure's message."""
        attempt = probe.attempt
        source = self._end(probe.member, probe.place, "out", attempt.source)
        arriving = "none" if probe.icmp else "in"
        destination = self._end(probe.to_member, probe.to_place, arriving, attempt.destination)
        said = explain_ends(self.policy, self.inventory, source, destination, probe.port, TODAY)
        places = {"egress": (probe.member, probe.place), "ingress": (probe.to_member, probe.to_place)}
        verdicts = {e.direction: self._unmapped(e, *places[e.direction], icmp=probe.icmp) for e in said.ends}
        return {str(d): v for d, v in verdicts.items()}, f"{source} -> {destination} {probe.port}: {said}"

    def _unmapped(self, end: EndVerdict, member: int, place: int, *, icmp: bool) -> Verdict:
        """A process whose cgroup the agent has not seen is closed while anything on its host enforces."""
        if PLACES[place].mapped or end.decision.reason == "essential" or (icmp and end.direction == "ingress"):
            return end.verdict
        policy: HostPolicy = self.host_policies[member]
        if not isinstance(Identity(policy, {"www-data": 33}).place("system.slice"), Inner):
            return end.verdict
        return "denied" if policy.enforcing else "allowed"


def draw_probes(random: Random, members: int, count: int) -> list[Probe]:
    out: dict[Probe, None] = {}
    while len(out) < count:
        member, to_member = random.sample(range(members), 2)
        port = random.choice(PORTS)
        version = {"icmp": 4, "icmpv6": 6}.get(port.protocol) or random.choice((4, 6))
        places = random.randrange(len(PLACES)), random.randrange(len(PLACES))
        out[Probe(member, places[0], to_member, places[1], port, version)] = None
    return list(out)
