"""What the kernel's log says of a denied packet, and what the agent reports about a denied connection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from segctl_agent.denials.prefix import Prefix
from segctl_agent.facts.values import Address

Verdict = Literal["denied", "would-deny"]


class LoggedPacket(NamedTuple):
    """One packet of ours. `payload` begins with the network header. uid and gid are those of the socket's owner, None
    without a socket (and always on input). `at_us`: Unix time. Interfaces are indices, 0 for none."""

    prefix: Prefix
    payload: bytes
    uid: int | None
    gid: int | None
    at_us: int
    input_interface: int
    output_interface: int


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """What is known of a process; a part may be known when the rest is not. pid 0 and "" are unknown. `cgroup` is the
    path below the cgroup root."""

    pid: int = 0
    exe: str = ""
    command: str = ""
    user: str = ""
    unit: str = ""
    cgroup: str = ""


@dataclass(frozen=True, slots=True)
class Attribution:
    """A process, and why it is not known wholly: empty when it is."""

    process: ProcessInfo = field(default_factory=ProcessInfo)
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class Denial:
    """`count` like packets between `first_seen_us` and `last_seen_us` (Unix time, microseconds).

    protocol: tcp, udp, icmp, icmpv6, or `ip/N` for IP protocol number N. port: the service's port (the destination's),
    the type of an ICMP message, 0 for `ip/N` and for a fragment without its ports. workload: `?` where the socket's
    cgroup was not mapped yet. generation: the policy in force when it was reported.
    """

    ingress: bool
    verdict: Verdict
    workload: str
    remote: Address
    protocol: str
    port: int
    process: ProcessInfo
    process_unknown: str
    count: int
    first_seen_us: int
    last_seen_us: int
    generation: int
