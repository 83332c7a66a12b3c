"""The policy as values: what an administrator wrote, parsed and checked for form.

Everything is frozen. `where` never takes part in equality, so two policies are equal when they say the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

from segctl.model.findings import NOWHERE, Position

Network = IPv4Network | IPv6Network
Protocol = Literal["tcp", "udp", "icmp", "icmpv6", "ip"]
PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp", "icmp", "icmpv6")
"""What policies speak of. `ip` occurs in denials alone: `ip/132` is the IP protocol of that number."""

HOST_WORKLOAD = "host"
"""The reserved name of the workload of every process that no declared workload names."""
ANY_PEER = "any"
"""The reserved name of the peer that stands for every address that no enrolled host holds."""

PLACEHOLDER = "CHANGE-ME"
"""What a proposed rule has for owner and reason: a policy that still says it is refused."""


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """One protocol and an inclusive range: ports 0-65535 of tcp and udp, message types 0-255 of icmp and icmpv6,
    in denials numbers of IP protocols 0-255 of ip."""

    protocol: Protocol
    low: int
    high: int

    def covers(self, other: PortRange) -> bool:
        return self.protocol == other.protocol and self.low <= other.low and other.high <= self.high

    def overlaps(self, other: PortRange) -> bool:
        return self.protocol == other.protocol and self.low <= other.high and other.low <= self.high

    def __str__(self) -> str:
        return f"{self.protocol}/{self.low}" if self.low == self.high else f"{self.protocol}/{self.low}-{self.high}"


@dataclass(frozen=True, slots=True, order=True)
class Tags:
    """An immutable mapping of tag keys to one value each, hashable and ordered."""

    pairs: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, tags: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> Tags:
        return cls(tuple(sorted(dict(tags).items())))

    def get(self, key: str) -> str | None:
        return next((v for k, v in self.pairs if k == key), None)

    def includes(self, wanted: Tags) -> bool:
        """True when every pair of `wanted` is one of ours: a selector's tags match a workload's."""
        return set(wanted.pairs) <= set(self.pairs)

    def conflicts(self, other: Tags) -> bool:
        """True when no one thing can carry both: a key with two values."""
        mine = dict(self.pairs)
        return any(mine.get(k, v) != v for k, v in other.pairs)

    def merged(self, other: Tags) -> Tags:
        return Tags.of({**dict(self.pairs), **dict(other.pairs)})

    def __str__(self) -> str:
        return ",".join(f"{k}={v}" for k, v in self.pairs)


class ProcessKind(StrEnum):
    UNIT = "unit"
    CGROUP = "cgroup"
    USER = "user"
    GROUP = "group"
    EXECUTABLE = "executable"
    CONTAINER = "container"


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """How a workload's processes are told apart on their host.

    unit: a glob on the name of a unit of the system manager (`postgresql@*.service`); a slice names everything in it.
    cgroup: a glob on the path below the cgroup root, a segment at a time; everything below a match belongs to it.
    user: a user name or a decimal uid.
    group: a group name or a decimal gid; of incoming connections the kernel does not tell it.
    executable: the absolute path of a program, where the host runs the exec gate.
    container: a glob on the name of a container of a rootful runtime (docker, podman, CRI-O, containerd).
    """

    kind: ProcessKind
    pattern: str

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.pattern}"


@dataclass(frozen=True, slots=True)
class Selector:
    """Names workloads by tags (and optionally one declared workload), or one peer. Empty: every workload."""

    tags: Tags = field(default_factory=Tags)
    workload: str | None = None
    peer: str | None = None
    where: Position = field(default=NOWHERE, compare=False)

    def __str__(self) -> str:
        if self.peer is not None:
            return f"peer {self.peer}"
        parts = ([self.workload] if self.workload else []) + ([str(self.tags)] if self.tags.pairs else [])
        return " ".join(parts) or "everything"


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    ports: tuple[PortRange, ...]
    where: Position = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    networks: tuple[Network, ...]
    where: Position = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Workload:
    """Processes of the hosts whose tags include `on`. An instance carries the host's tags plus `tags`."""

    name: str
    on: Tags
    process: Process
    tags: Tags = field(default_factory=Tags)
    where: Position = field(default=NOWHERE, compare=False)


class Mode(StrEnum):
    """Enforcement modes, weakest first. Where several apply to a workload the strictest holds."""

    OBSERVE = "observe"
    TEST = "test"
    ENFORCE = "enforce"

    @property
    def strictness(self) -> int:
        return ("observe", "test", "enforce").index(self.value)


class Answer(StrEnum):
    """What becomes of a denied packet while its workload enforces."""

    DROP = "drop"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class ModeRule:
    """`outgoing` and `incoming` are what a denied application sees; None where the author left it to the default."""

    select: Selector
    mode: Mode
    outgoing: Answer | None = field(default=None, kw_only=True)
    incoming: Answer | None = field(default=None, kw_only=True)
    where: Position = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Boundary:
    name: str
    source: Selector
    destination: Selector
    where: Position = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Rule:
    """Opens the egress of the source process and the ingress of the destination process.

    `ports` is `allow` resolved, sorted and without duplicates; `allow` keeps the words of the author.
    `until` is the moment (UTC) from which on it permits nothing: the end of its `expires` day, or the moment.
    """

    name: str
    source: Selector
    destination: Selector
    allow: tuple[str, ...]
    ports: tuple[PortRange, ...]
    within: tuple[str, ...] = ()
    owner: str = ""
    why: str = ""
    review: date | None = None
    until: datetime | None = None
    where: Position = field(default=NOWHERE, compare=False)

    @property
    def expires(self) -> str:
        """`until` as policies say it: the last day, or the moment. Empty where there is no end."""
        if self.until is None:
            return ""
        if self.until.timetz().replace(tzinfo=None) == time():
            return (self.until - timedelta(days=1)).date().isoformat()
        return self.until.strftime("%Y-%m-%dT%H:%M:%SZ" if self.until.second else "%Y-%m-%dT%H:%MZ")


@dataclass(frozen=True, slots=True)
class PolicyTest:
    """A statement that must hold of the policy: every service of `ports` is permitted (`allow`), or none is."""

    source: Selector
    destination: Selector
    allow: bool
    services: tuple[str, ...]
    ports: tuple[PortRange, ...]
    where: Position = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Essentials:
    """What always passes beside the built-in essentials (loopback, ICMP errors, neighbour discovery, DHCP, the
    agent's own channel): the declared DNS and NTP servers, and the administrators' rescue list."""

    dns: tuple[Network, ...] = ()
    ntp: tuple[Network, ...] = ()
    rescue: tuple[Network, ...] = ()
    rescue_ports: tuple[PortRange, ...] = (PortRange("tcp", 22, 22),)
    no_rescue: bool = field(default=False, compare=False)
    """Said in the policy, for the check: no kernel needs to know."""
    where: Position = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Policy:
    """One whole policy. Mappings are by name; `tags` maps each declared key to its declared values."""

    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    services: Mapping[str, Service] = field(default_factory=dict)
    peers: Mapping[str, Peer] = field(default_factory=dict)
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    modes: tuple[ModeRule, ...] = ()
    boundaries: tuple[Boundary, ...] = ()
    rules: tuple[Rule, ...] = ()
    tests: tuple[PolicyTest, ...] = ()
    essentials: Essentials = field(default_factory=Essentials)
