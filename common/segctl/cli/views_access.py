"""Who may do what, as the command line shows it, and as its JSON: operators, tokens, and the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class WhoAmI:
    """`certificate_until` is null without a certificate, and where the controller does not tell. `scopes` are those of
    an owner; `identity` what was shown (certificate SERIAL, api-token ID, oidc SUBJECT), good until `until`."""

    name: str
    role: str
    fleet: str
    controller: str
    controller_version: str
    certificate_until: datetime | None = None
    identity: str = ""
    scopes: tuple[Mapping[str, str], ...] = ()
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Token:
    id: str
    tags: Mapping[str, str]
    host: str
    networks: tuple[str, ...]
    uses_left: int
    expires: datetime | None
    created_by: str


@dataclass(frozen=True, slots=True)
class NewToken:
    """`join` is the secret line for `segctl-agent enrol`; empty when it was written to `file`."""

    id: str
    expires: datetime | None
    join: str = field(repr=False)
    file: str = ""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    sequence: int
    at: datetime | None
    actor: str
    action: str
    subject: str
    detail: str
    identity: str = ""
    peer: str = ""
    previous: str = ""
    hash: str = ""


@dataclass(frozen=True, slots=True)
class AuditProof:
    """`entries` were verified, the last of which has the hash `head`; `since` is a head that was among them."""

    entries: int
    head: str
    since: str = ""


@dataclass(frozen=True, slots=True)
class ApiToken:
    """`last_used` is right to a minute, null for one that never was."""

    id: str
    name: str
    role: str
    scope: Mapping[str, str]
    created_by: str
    created: datetime | None
    expires: datetime | None
    last_used: datetime | None = None


@dataclass(frozen=True, slots=True)
class NewApiToken:
    """`secret` is empty when it was written to `file`."""

    token: ApiToken
    secret: str = field(repr=False)
    file: str = ""
