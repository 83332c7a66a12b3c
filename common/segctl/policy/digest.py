"""Digests of values: sha256 over a canonical form. Positions (fields that do not compare) are left out.

The digest of a host policy is made of those of its parts, so that who changes one part hashes one part:

    host policy = header, body;  body = rules, every group, the managed addresses
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from segctl.model.addresses import AddressSet
from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import Answer, Essentials, Mode, Network, Policy, PortRange, Process


def policy_digest(policy: Policy) -> str:
    return _digest(policy)


def host_policy_digest(value: HostPolicy) -> str:
    rules = rules_digest(rules_text(value.essentials, value.workloads))
    groups = [group_digest(g.name, g.networks, addresses_digest(g.hosts)) for g in value.groups]
    body = body_digest(rules, groups, addresses_digest(value.managed))
    return host_digest(value.host, value.generation, value.policy_digest, body)


def host_policy_digest_before(value: HostPolicy) -> str:
    """As protocol 2 had it: generations that an agent of that time stored still read."""
    return _digest(value)


def host_digest(host: str, generation: int, policy_digest: str, body: bytes) -> str:
    return hashlib.sha256(f"host policy\n{host}\n{generation}\n{policy_digest}\n".encode() + body).hexdigest()


def body_digest(rules: bytes, groups: Iterable[bytes], managed: bytes) -> bytes:
    """Of digests, 32 bytes each; `groups` in the order of their names."""
    return hashlib.sha256(b"".join((rules, managed, *groups))).digest()


def group_digest(name: str, networks: Sequence[Network], hosts: bytes) -> bytes:
    """`hosts`: their `addresses_digest`."""
    return hashlib.sha256(f"group\n{name}\n{' '.join(map(str, networks))}\n".encode() + hosts).digest()


def addresses_digest(addresses: AddressSet) -> bytes:
    head = f"addresses\n{len(addresses.v4)}\n".encode()
    return hashlib.sha256(b"".join((head, addresses.v4, addresses.v6))).digest()


def rules_digest(text: str) -> bytes:
    return hashlib.sha256(f"rules\n{text}".encode()).digest()


def rules_text(essentials: Essentials, workloads: Iterable[LocalWorkload]) -> str:
    """Canonical; `workloads` in the order of their names."""
    return "\n".join((essentials_text(essentials), *map(workload_text, workloads)))


def essentials_text(essentials: Essentials) -> str:
    """Canonical."""
    return _text(essentials)


def workload_text(value: LocalWorkload) -> str:
    """Canonical: a line for the workload and one for each entry."""
    head = workload_head(value.name, value.process, value.mode, value.outgoing, value.incoming)
    ways = (("in", value.ingress), ("out", value.egress))
    lines = [
        entry_terms(way, e.rule, services_text(e.ports), e.managed, e.until) + e.group
        for way, entries in ways
        for e in entries
    ]
    return "\n".join((head, *lines))


def workload_head(name: str, process: Process | None, mode: Mode, outgoing: Answer, incoming: Answer) -> str:
    told = (process.kind.value, process.pattern) if process is not None else ()
    # As json.dumps of the list, which makes an encoder for it: strings have a shorter way.
    return f"[{', '.join(map(json.dumps, (name, *told, mode.value, outgoing.value, incoming.value)))}]"


def services_text(ports: Sequence[PortRange]) -> str:
    return ",".join([f"{p.protocol}/{p.low}-{p.high}" for p in ports])


def entry_terms(way: str, rule: str, services: str, managed: bool, until: int) -> str:
    """The text of an entry up to the name of its group, which ends it. `way`: in or out."""
    return f"{way}\t{rule}\t{services}\t{managed:d}\t{until}\t"


def _digest(value: object) -> str:
    return hashlib.sha256(_text(value).encode()).hexdigest()


def _text(value: object) -> str:
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _canonical(value: object) -> Any:  # noqa: ANN401 - JSON has no narrower name
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _canonical(getattr(value, f.name)) for f in fields(value) if f.compare}
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (IPv4Network, IPv6Network, IPv4Address, IPv6Address)):
        return str(value)
    if isinstance(value, datetime):  # a date as well: asked first, and told apart from a day by its T
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [_canonical(v) for v in value]
    raise TypeError(f"no canonical form for {type(value).__name__}")
