"""What must become of a probe between two processes of the fleet, in the words of the explainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from random import Random

from segctl.model.hostpolicy import HostPolicy
from segctl.model.inventory import Inventory
from segctl.model.policy import HOST_WORKLOAD, Policy, PortRange, Process, ProcessKind
from segctl.policy.decide import Instance, instances
from segctl.policy.explain import EndVerdict, Verdict, explain_ends
from segctl_agent.facts.values import Address
from segctl_agent.identity import Identity, Leaf

from tests.netns.fleet import PLACES, PORTS, Attempt, Place, address
from tests.netns.randompolicy import NOW


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


Rank = tuple[str, bool, bool, int]
"""What goes before what: kind, by the name of a socket's service, glob, shorter pattern. Sorts like the rule reads."""


def claim(name: str, process: Process, place: Place, direction: str) -> Rank | None:
    """How strongly a workload claims a process, as docs/architecture.md says it, in the plainest words."""
    path, pattern = place.cgroup.split("/"), process.pattern
    unit = next(c for c in path if not c.endswith(".slice"))
    slices = path[: path.index(unit)]
    glob = any(c in pattern for c in "*?[")
    match process.kind:
        case ProcessKind.EXECUTABLE:
            return ("0 executable", False, False, 0) if path[-1] == f"segctl-exe-{name}" else None
        case ProcessKind.CGROUP:
            parts = pattern.split("/")
            hit = len(parts) <= len(path) and all(map(fnmatchcase, path, parts))
            return ("1 cgroup", False, glob, -len(pattern)) if hit else None
        case ProcessKind.UNIT:
            if any(fnmatchcase(c, pattern) for c in slices):
                return "2 slice", False, glob, -len(pattern)
            if f"seg-{name}.slice" in slices and not pattern.endswith(".slice"):
                return "2 slice", False, False, -len(f"seg-{name}.slice")
            names = (unit, unit.replace(".socket", ".service"))
            hits = [n for n, known_as in enumerate(names) if fnmatchcase(known_as, pattern)]
            return ("3 unit", hits[0] > 0, glob, -len(pattern)) if hits else None
        case _:
            wanted = 33 if pattern == "www-data" else int(pattern)
            by_group = process.kind is ProcessKind.GROUP
            by_slice = not by_group and path[1] == f"user-{wanted}.slice"
            hit = place.uid == wanted if direction == "out" else by_slice
            return ("5 group" if by_group else "4 user", False, False, -len(pattern)) if hit else None


def owner(policy: Policy, inventory: Inventory, host: str, place: int, direction: str) -> Instance:
    """Which workload a process belongs to."""
    here = {i.workload: i for i in instances(policy, inventory.hosts[host])}
    named = [(name, policy.workloads[name].process) for name in here if name != HOST_WORKLOAD]
    claims = [(rank, name) for name, p in named if (rank := claim(name, p, PLACES[place], direction)) is not None]
    return here[min(claims)[1]] if claims else here[HOST_WORKLOAD]


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
        said = explain_ends(self.policy, self.inventory, source, destination, probe.port, NOW)
        places = {"egress": (probe.member, probe.place), "ingress": (probe.to_member, probe.to_place)}
        verdicts = {e.direction: self._unmapped(e, *places[e.direction], icmp=probe.icmp) for e in said.ends}
        return {str(d): v for d, v in verdicts.items()}, f"{source} -> {destination} {probe.port}: {said}"

    def _unmapped(self, end: EndVerdict, member: int, place: int, *, icmp: bool) -> Verdict:
        """A process whose cgroup the agent has not seen is closed while anything on its host enforces."""
        if PLACES[place].mapped or end.decision.reason == "essential" or (icmp and end.direction == "ingress"):
            return end.verdict
        policy: HostPolicy = self.host_policies[member]
        identity = Identity(policy, {"www-data": 33, "group:www-data": 33})
        above = PLACES[place].cgroup.split("/")[:-1]
        if any(isinstance(identity.place("/".join(above[: n + 1])), Leaf) for n in range(len(above))):
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
