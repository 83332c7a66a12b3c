"""The rows of the store as values. Times are Unix microseconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar

from segctl.model.inventory import Address
from segctl.model.policy import Network, Tags
from segctl.policy.source import SourceFile

HOUR_US = 3_600_000_000
LARGEST_COUNT = 2**53
"""Counts stop here: what a host says must not add up to a number that SQLite turns into a float."""


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
class WebSessionRecord:
    """Of a browser. `id` is the SHA-256 of the cookie's secret, and only that secret opens `sealed`. `used_us` is right
    to a minute, `version` counts what was sealed; somebody renews what is in it until `leased_us`."""

    id: bytes
    identity: str
    began_us: int
    used_us: int
    sealed: bytes = field(repr=False)
    version: int = 1
    leased_us: int = 0


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """What the members of a group of the OpenID provider may do. A group may be the owner of several scopes."""

    name: str
    role: Role
    scope: Tags = Tags()  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """What somebody made of a suggested rule. `verdict` is accepted, edited or rejected; `suggested` is the policy file
    that was suggested, `decided` what was accepted of it: the same, another one, or nothing."""

    id: str
    verdict: str
    actor: str
    at_us: int
    reason: str
    suggested: str
    decided: str = ""


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


def of_each_key(told: Iterable[DenialRecord]) -> list[DenialRecord]:
    """Of one host; what it told of one key is one denial, in the place and with the body of the last."""
    each: dict[str, DenialRecord] = {}
    for denial in told:
        before = each.pop(denial.key, None)
        each[denial.key] = (
            denial
            if before is None
            else replace(
                denial,
                count=min(before.count + denial.count, LARGEST_COUNT),
                first_us=min(before.first_us, denial.first_us),
                last_us=max(before.last_us, denial.last_us),
            )
        )
    return [*each.values()]


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
    after: int = 0  # ids above it


@dataclass(frozen=True, slots=True)
class Limits:
    """How many rows the store keeps, or a few more: proofs of each host. The oldest go. Of web sessions, of all and of
    one identity, exactly so many, and the one that was used least lately goes."""

    denials: int = 100_000
    events: int = 10_000
    proofs: int = 1_000
    web_sessions: int = 2_000
    web_sessions_of_one: int = 16
