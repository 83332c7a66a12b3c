"""What `segctl flows` looks for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class FlowsWanted:
    """Empty and None: all. `address` is one or a network, `process` what somebody calls it."""

    limit: int
    since: datetime | None
    until: datetime | None = None
    host: str = ""
    workload: str = ""
    rule: str = ""
    address: str = ""
    protocol: str = ""
    port: int | None = None
    verdict: str = ""
    process: str = ""
