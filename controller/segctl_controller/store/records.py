"""The rows of the store as values. Times are Unix microseconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import ClassVar

from segctl.model.inventory import Address
from segctl.model.policy import Network, Tags
from segctl.policy.source import SourceFile


class Role(StrEnum):
    """Each may do what those before it may, of the whole fleet; an OWNER changes the policy of its scope alone."""

    VIEWER = "viewer"
    OWNER = "owner"
    EDITOR = "editor"
    ADMIN = "admin"

    @property
    def rank(self) -> int:
        return ("viewer", "owner", "editor", "admin").index(self.value)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the audit log; `sequence`, `previous` and `hash` (see segctl.auditchain) are set when it is stored.

    `identity` is what the actor showed (certificate SERIAL, api-token ID, oidc SUBJECT), `peer` where it came from.
    """

    TEXTS: ClassVar = ("actor", "action", "subject", "detail", "identity", "peer")

    at_us: int
    actor: str
    action: str
    subject: str
    detail: str = ""
    sequence: int = 0
    identity: str = ""
    peer: str = ""
    previous: str = ""
    hash: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """What of it is stored and hashed beside its number and time, in order. Without NUL, which PostgreSQL cannot
        store: the hash must be that of what comes back."""
        return tuple(getattr(self, name).replace("\0", "\ufffd") for name in self.TEXTS)


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """The newest first, or `oldest_first`; those with a higher number than `after`. Empty texts: all."""

    actor: str = ""
    action: str = ""
    subject: str = ""
    since_us: int = 0
    after: int = 0
    oldest_first: bool = False


EVERY_ENTRY = EntryFilter()


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
    """`scope` are the tags of an owner's part of the fleet, and empty for every other role."""

    name: str
    role: Role
    serial: str
    created_us: int
    scope: Tags = Tags()  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True)
class ApiTokenRecord:
    """A token for automation; only the SHA-256 of its secret is kept. `last_used_us` is right to a minute."""

    id: str
    sha256: bytes
    name: str
    role: Role
    scope: Tags
    created_by: str
    created_us: int
    expires_us: int
    last_used_us: int = 0


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """What the members of a group of the OpenID provider may do. A group may be the owner of several scopes."""

    name: str
    role: Role
    scope: Tags = Tags()  # noqa: RUF009 - frozen


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


class FlowVerdict(IntEnum):
    """The numbers are those of the wire and of the database."""

    ALLOWED = 0
    WOULD_DENY = 1
    OBSERVED = 2


@dataclass(frozen=True, slots=True)
class FlowKey:
    """Flows that differ in none of these are one row. `remote` has 16 bytes, IPv4 as ::ffff:a.b.c.d; `protocol` is the
    IP protocol number, `port` the destination port or the ICMP type; `rule` is empty where none permitted it."""

    host: str
    workload: str
    ingress: bool
    remote: bytes
    protocol: int
    port: int
    rule: str
    verdict: FlowVerdict


@dataclass(frozen=True, slots=True)
class FlowRecord:
    """Accepted flows of one key, of one hour where it is stored, and of all hours asked for where it is an answer."""

    key: FlowKey
    flows: int
    bytes_sent: int
    bytes_received: int
    first_us: int
    last_us: int


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
class FarEnd:
    """Asks which workload of `host` was the other end of a flow that was last seen at `last_us`: the row of that host
    in the other direction, about one of `remotes` (16 bytes each)."""

    host: str
    ingress: bool
    remotes: tuple[bytes, ...]
    protocol: int
    port: int
    last_us: int


@dataclass(frozen=True, slots=True)
class FlowFilter:
    """Empty fields: all. Only what was seen since `since_us`, by whole hours."""

    limit: int = 100
    host: str = ""
    workload: str = ""
    rule: str = ""
    since_us: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """What one report brought, stored in one transaction with its place in the agent's sequence."""

    host: str
    epoch: str
    sequence: int
    at_us: int
    denials: tuple[DenialRecord, ...] = ()
    events: tuple[EventRecord, ...] = ()
    lost: int = 0
    flows: tuple[FlowRecord, ...] = ()
    flows_lost: int = 0
    hits: tuple[HitRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class DenialFilter:
    limit: int = 100
    host: str = ""
    workload: str = ""
    since_us: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """How many rows the store keeps, proofs of each host, and flows for how many days; the oldest go."""

    denials: int = 100_000
    events: int = 10_000
    proofs: int = 1_000
    flows: int = 1_000_000
    flow_days: int = 30
