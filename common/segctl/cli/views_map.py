"""The map as the command line shows it, and as its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class MapEnd:
    """`tags` are those of the hosts at the time of the flow; null: addresses that no enrolled host held, of `peer`
    where the policy names them. The others are empty where they were not asked for, or are not known."""

    tags: Mapping[str, str] | None
    peer: str = ""
    network: str = ""
    host: str = ""
    workload: str = ""
    process: str = ""


@dataclass(frozen=True, slots=True)
class MapVerdicts:
    """Flows by what the policy says of them."""

    allowed: int = 0
    not_covered: int = 0
    would_deny: int = 0
    denied: int = 0


@dataclass(frozen=True, slots=True)
class MapComparison:
    """Connections by what the policy says and what the network did."""

    permitted: int = 0
    rejected: int = 0
    escaped: int = 0
    misdropped: int = 0


@dataclass(frozen=True, slots=True)
class MapReason:
    """Why an end (source or destination) lets flows pass or does not. `rule`: the rule, boundary or essential."""

    end: str
    verdict: str
    reason: str
    rule: str
    flows: int
    owner: str = ""


@dataclass(frozen=True, slots=True)
class MapEdge:
    """`flows` holds `would_deny` and `observed`, which is what hosts told at the time; `bytes` go both ways. `verdict`
    is the strictest that the policy says, `verdicts` of how many flows. `denied` connections are not in `flows`."""

    source: MapEnd
    destination: MapEnd
    service: str
    service_name: str
    flows: int
    would_deny: int
    observed: int
    bytes: int
    last_seen: datetime | None
    verdict: str = "allowed"
    verdicts: MapVerdicts = MapVerdicts()
    comparison: MapComparison | None = None
    reasons: tuple[MapReason, ...] = ()
    denied: int = 0


@dataclass(frozen=True, slots=True)
class FlowMap:
    """`more`: there are more edges than were asked for. `lost` flows are in none. Judged by the policy of `generation`,
    and compared with the network from `compared_since` on; null: not at all."""

    edges: tuple[MapEdge, ...] = ()
    more: bool = False
    lost: int = 0
    generation: int = 0
    compared_since: datetime | None = None
    more_denied: bool = False
