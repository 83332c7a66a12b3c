"""The rows of the store as values. Times are Unix microseconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from segctl.model.inventory import Address
from segctl.model.policy import Network, Tags
from segctl.policy.source import SourceFile

HOUR_US = 3_600_000_000
LARGEST_COUNT = 2**53
"""Counts stop here: what a host says must not add up to a number that SQLite turns into a float."""


class Role(StrEnum):
    VIEWER = "viewer"
    EDITOR = "editor"
    ADMIN = "admin"

    @property
    def rank(self) -> int:
        return ("viewer", "editor", "admin").index(self.value)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the audit log; `sequence` is 0 until it is stored."""

    at_us: int
    actor: str
    action: str
    subject: str
    detail: str = ""
    sequence: int = 0


class GenerationState(StrEnum):
    """The newest CONFIRMED one is active. A TRIAL becomes one of the others, whatever happens."""

    TRIAL = "trial"
    CONFIRMED = "confirmed"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """A pushed policy. `number` is 0 until it is stored; `files` is empty in listings; `why` it was undone."""

    digest: str
    author: str
    message: str
    created_us: int
    files: tuple[SourceFile, ...] = ()
    rollback_of: int = 0
    number: int = 0
    state: GenerationState = GenerationState.CONFIRMED
    why: str = ""


@dataclass(frozen=True, slots=True)
class HostRecord:
    """`networks`: where its addresses may lie; empty: anywhere. `facts`: a wire Facts message without addresses.

    `serial` is the certificate's in use, `renewal` (DER) one that was given and not used yet. `restored_us` is the time
    of the backup that this record comes from, until it is known which certificate the host uses now.
    """

    name: str
    tags: Tags
    serial: str
    enrolled_us: int
    networks: tuple[Network, ...] = ()
    addresses: tuple[Address, ...] = ()
    last_seen_us: int = 0
    agent_version: str = ""
    facts: bytes = b""
    renewal: bytes = b""
    restored_us: int = 0


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A join token; only the SHA-256 of its secret is kept. `host` empty: the host's own name."""

    id: str
    sha256: bytes
    tags: Tags
    host: str
    uses: int
    expires_us: int
    replace: bool
    created_by: str
    networks: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class OperatorRecord:
    name: str
    role: Role
    serial: str
    created_us: int


@dataclass(frozen=True, slots=True)
class FactsRecord:
    """What a host's agent said, after it was judged; `facts` as in HostRecord."""

    host: str
    addresses: tuple[Address, ...]
    agent_version: str
    facts: bytes
    at_us: int


@dataclass(frozen=True, slots=True)
class ProofRecord:
    """The host's kernel held the host policy `digest`: read back, with the digest of the dump."""

    host: str
    generation: int
    digest: str
    kernel_digest: str
    at_us: int


@dataclass(frozen=True, slots=True)
class DenialRecord:
    """One aggregated denial. Rows of one host with one `key` are one row; `body` is a wire DeniedConnection.

    `id` grows with every change of a row, so that "everything after id X" is what a follower has not seen.
    """

    host: str
    workload: str
    key: str
    count: int
    first_us: int
    last_us: int
    body: bytes
    id: int = 0


@dataclass(frozen=True, slots=True)
class EventRecord:
    host: str
    kind: str
    message: str
    at_us: int
    culprit_pid: int = 0
    culprit_name: str = ""


@dataclass(frozen=True, slots=True)
class HitRecord:
    """How often the rule permitted something on this host in one direction, since the host was enrolled."""

    host: str
    rule: str
    ingress: bool
    count: int
    last_us: int


@dataclass(frozen=True, slots=True)
class RuleUse:
    """Hits of one rule over all hosts, by the end that counted them; `hosts` had at least one."""

    rule: str
    egress: int
    ingress: int
    last_us: int
    hosts: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one report brought but flows, stored in one transaction with its place in the agent's sequence."""

    host: str
    epoch: str
    sequence: int
    at_us: int
    denials: tuple[DenialRecord, ...] = ()
    events: tuple[EventRecord, ...] = ()
    lost: int = 0
    hits: tuple[HitRecord, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.denials or self.events or self.lost or self.hits)


@dataclass(frozen=True, slots=True)
class DenialFilter:
    limit: int = 100
    host: str = ""
    workload: str = ""
    since_us: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """How many rows the store keeps, proofs of each host; the oldest go."""

    denials: int = 100_000
    events: int = 10_000
    proofs: int = 1_000
