"""What a draft would make of the flows of the past, as the command line shows it, and as its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class BlockedFlow:
    """Flows that were accepted, and would not be; or that come to be allowed. `host` and `peer_host` are an example of
    the hosts with these tags; `peer_address` stands alone where no enrolled host held it. `reason` is boundary or
    default, of what comes to be allowed rule or essential, and `rule` its name. `was` and `was_rule` are what the
    policy in force says; `owner` is of the rule that permits it now, or would. `denied` of the flows are denied
    connections."""

    host: str
    workload: str
    direction: str
    tags: Mapping[str, str]
    peer_host: str
    peer_tags: Mapping[str, str]
    peer_address: str
    service: str
    service_name: str
    flows: int
    last_seen: datetime | None
    reason: str
    rule: str
    was: str = ""
    was_rule: str = ""
    owner: str = ""
    processes: tuple[str, ...] = ()
    denied: int = 0


@dataclass(frozen=True, slots=True)
class ImpactSpan:
    """What a draft would have made of the flows of one span of time."""

    since: datetime | None
    until: datetime | None
    judged_flows: int
    blocked_flows: int
    allowed_flows: int


@dataclass(frozen=True, slots=True)
class FlowImpact:
    """Of the flows from `since` to `until` (null: now). `blocked` are the first of `blocked_kinds`, those with most
    flows first, and `allowed` likewise. `newly_blocked_flows` are let pass by the policy in force. `spans` are of a
    replay. `more`: not every kind of flow was judged."""

    blocked: tuple[BlockedFlow, ...] = ()
    blocked_kinds: int = 0
    blocked_flows: int = 0
    judged_flows: int = 0
    more: bool = False
    allowed: tuple[BlockedFlow, ...] = ()
    allowed_kinds: int = 0
    allowed_flows: int = 0
    newly_blocked_flows: int = 0
    spans: tuple[ImpactSpan, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
