"""What the agents of one process have seen, and the watch that a measurement keeps on them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

HEARTBEAT_BYTES = 2
"""Of a serialized ControllerMessage that holds nothing else."""


@dataclass(slots=True)
class Watch:
    """When each agent acknowledged last (monotonic); `whole` once there are `wanted`. `stored`: only what the agent has
    on its disk, which is how a push ends."""

    wanted: int
    stored: bool
    times: dict[str, float] = field(default_factory=dict)
    acks: int = 0
    whole: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Tally:
    """Totals since the start. `received` are bytes of messages other than heartbeats; `failures`
    sessions that ended and connections that were not made, by status."""

    connected: int = 0
    sessions: int = 0
    last_joined: float = 0.0
    messages: int = 0
    received: int = 0
    acks: int = 0
    reports: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    watch: Watch | None = None

    def totals(self) -> dict[str, Any]:
        """The numbers, without the watch."""
        names = ("connected", "sessions", "last_joined", "messages", "received", "acks", "reports")
        return {name: getattr(self, name) for name in names} | {"failures": dict(self.failures)}

    def joined(self) -> None:
        self.connected += 1
        self.sessions += 1
        self.last_joined = asyncio.get_running_loop().time()

    def left(self) -> None:
        self.connected -= 1

    def took(self, data: bytes) -> None:
        if len(data) > HEARTBEAT_BYTES:
            self.messages += 1
            self.received += len(data)

    def acked(self, host: str, stored: bool) -> None:
        self.acks += 1
        watch = self.watch
        if watch is not None and (stored or not watch.stored):
            watch.times[host] = asyncio.get_running_loop().time()
            watch.acks += 1
            if len(watch.times) >= watch.wanted:
                watch.whole.set()

    def failed(self, code: str) -> None:
        self.failures[code] = self.failures.get(code, 0) + 1
