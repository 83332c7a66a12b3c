"""What the commands show: one value for the text and the JSON of each command.

The JSON documents have exactly these fields (`views_json`); docs/cli.md documents them, so a field is only ever added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from segctl.cli.views_impact import FlowImpact
from segctl.cli.views_life import Obstacle, Selection
from segctl.model.findings import Finding

ABSENT = {"", "-"}
"""How the controller writes the mode of a workload that was not, or is no longer, there."""


@dataclass(frozen=True, slots=True)
class File:
    name: str
    content: str


@dataclass(frozen=True, slots=True)
class Generation:
    """`state`: trial, confirmed, undone; `why` it was undone."""

    number: int
    digest: str
    author: str
    message: str
    created: datetime | None
    active: bool
    rollback_of: int | None
    files: tuple[File, ...] = ()
    state: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    allowed: bool
    source: str
    destination: str
    service: str
    rule: str
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModeChange:
    host: str
    workload: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    exe: str
    command: str
    user: str
    unit: str
    cgroup: str


@dataclass(frozen=True, slots=True)
class Cut:
    """A live connection that a push would end. `rule` permits it now; empty: the mode or an essential does. Ports that
    are not known are 0."""

    host: str
    workload: str
    direction: str
    process: Process | None
    peer_address: str
    peer_host: str
    service: str
    remote_port: int
    local_port: int
    rule: str


@dataclass(frozen=True, slots=True)
class Unready:
    """What a push would enforce although `obstacles` keep it; `moves` are the workloads that it names."""

    select: Selection
    moves: tuple[ModeChange, ...]
    obstacles: tuple[Obstacle, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """`cuts` are the first of `cut_total`; `unasked` are connected hosts that did not tell theirs; where
    no host is connected, all. `behind`: a connected host holds a newer generation than the controller knows. `impact`
    is what became of the flows of the last day; None: the controller could not tell."""

    base_generation: int
    digest: str
    changes: tuple[Change, ...] = ()
    modes: tuple[ModeChange, ...] = ()
    hosts: tuple[str, ...] = ()
    tests: int = 0
    findings: tuple[Finding, ...] = ()
    cuts: tuple[Cut, ...] = ()
    cut_total: int = 0
    unasked: tuple[str, ...] = ()
    behind: bool = False
    impact: FlowImpact | None = None
    unready: tuple[Unready, ...] = ()


@dataclass(frozen=True, slots=True)
class Proof:
    """`state`: staged, proven, refused, released, offline, waiting, returned. `after_ms` counts from the moment the
    generation was stored. `never_connected`: of an offline host, which enforces nothing yet."""

    host: str
    state: str
    kernel_digest: str
    after_ms: float
    errors: tuple[str, ...] = ()
    never_connected: bool = False


@dataclass(frozen=True, slots=True)
class Phase:
    """`name`: staging, widening, activating, watching, pausing, confirming, undoing. `wave` from 1, 0 where there are
    none; `hosts` take part in it; `seconds` of watching and pausing."""

    name: str
    wave: int = 0
    waves: int = 0
    hosts: int = 0
    seconds: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """How many hosts are in which state in the end. `undone`: they hold the generation before; `why` tells."""

    proven: int
    refused: int
    offline: int
    waiting: int
    released: int = 0
    undone: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """A push that is neither confirmed nor undone yet; `proven` hosts hold it."""

    generation: Generation
    phase: Phase
    proven: int


@dataclass(frozen=True, slots=True)
class WorkloadStatus:
    """`identified` says by what its processes are told from others, `strength` how well, `why` in a sentence; empty
    where the agent did not say."""

    name: str
    mode: str
    process: str
    cgroups: tuple[str, ...] = ()
    identified: str = ""
    strength: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Listener:
    protocol: str
    address: str
    port: int
    workload: str
    process: str
    uid: int
    cgroup: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """A problem in two parts. `next` is what to do, empty where the text says it."""

    text: str
    next: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """`state`: in-sync, pending, refused, released, offline, never-connected. `table_guard`: owned, watched or empty;
    `mark_mask`: our bits of the conntrack mark."""

    name: str
    tags: Mapping[str, str]
    addresses: tuple[str, ...]
    connected: bool
    last_seen: datetime | None
    agent_version: str
    kernel: str
    kernel_generation: int
    state: str
    workloads: tuple[WorkloadStatus, ...] = ()
    listeners: tuple[Listener, ...] = ()
    problems: tuple[str, ...] = ()
    table_guard: str = ""
    mark_mask: int = 0
    troubles: tuple[Trouble, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    host: str
    kind: str
    message: str
    at: datetime | None
    culprit_pid: int | None
    culprit_name: str


@dataclass(frozen=True, slots=True)
class Ca:
    """`signs` new certificates; `hosts`: how many have one of it in use."""

    name: str
    until: datetime | None
    signs: bool
    hosts: int


@dataclass(frozen=True, slots=True)
class CaStatus:
    """`stage` of the CA's rotation: steady, prepared, active. `controller_until`: the controller's own certificate."""

    stage: str
    cas: tuple[Ca, ...]
    controller_until: datetime | None


@dataclass(frozen=True, slots=True)
class Status:
    fleet: str
    controller_version: str
    active: Generation | None
    hosts: tuple[Host, ...] = ()
    events: tuple[Event, ...] = ()
    trial: Trial | None = None
    ca: CaStatus | None = None


@dataclass(frozen=True, slots=True)
class End:
    host: str
    workload: str
    direction: str
    verdict: str
    mode: str
    reason: str
    rule: str
    position: str
    kernel_verdict: str
    kernel_detail: str


@dataclass(frozen=True, slots=True)
class Explanation:
    source: str
    destination: str
    service: str
    verdict: str
    generation: int
    differs: bool
    live: bool
    ends: tuple[End, ...] = ()
    nearest_rule: str = ""
    nearest_why: str = ""
    suggestion: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Denial:
    """One aggregated denied connection. `process` is None when it could not be known; `process_unknown` says why."""

    id: int
    host: str
    workload: str
    tags: Mapping[str, str]
    direction: str
    verdict: str
    process: Process | None
    process_unknown: str
    peer_address: str
    peer_host: str
    peer_workload: str
    peer_tags: Mapping[str, str]
    service: str
    service_name: str
    reason: str
    rule: str
    suggestion: str
    count: int
    first_seen: datetime | None
    last_seen: datetime | None
    generation: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Denials that were counted in the kernel but described nowhere."""

    lost: int


@dataclass(frozen=True, slots=True)
class Flow:
    """Accepted flows of one kind. `peer_workload` and `peer_process` are what the other end told; empty: it did not.
    Processes are identities: unit:NAME, exe:PATH, container:NAME, user:NAME, empty where they are not known. Bytes are
    those that the host sent and received; both 0 where its kernel does not count them."""

    host: str
    workload: str
    direction: str
    peer_address: str
    peer_host: str
    peer_workload: str
    service: str
    service_name: str
    rule: str
    verdict: str
    flows: int
    bytes_sent: int
    bytes_received: int
    first_seen: datetime | None
    last_seen: datetime | None
    process: str = ""
    peer_process: str = ""


@dataclass(frozen=True, slots=True)
class Flows:
    """`lost` were seen and are in no row."""

    flows: tuple[Flow, ...] = ()
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Talker:
    """A workload of a host with all flows that it took part in."""

    host: str
    workload: str
    flows: int
    bytes_sent: int
    bytes_received: int
    last_seen: datetime | None
