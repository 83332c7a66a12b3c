"""Digests of values: sha256 over a canonical JSON form. Positions (fields that do not compare) are left out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from segctl.model.hostpolicy import HostPolicy
from segctl.model.policy import Policy


def policy_digest(policy: Policy) -> str:
    return _digest(policy)


def host_policy_digest(host_policy: HostPolicy) -> str:
    return _digest(host_policy)


def _digest(value: object) -> str:
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


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
