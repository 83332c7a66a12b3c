"""What one generation demands of each host, kept in line with the fleet, without holding up the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime

from segctl.model.inventory import Host, Inventory
from segctl.policy.body import Body
from segctl.policy.compile import Compiler

from segctl_controller.trial import Active

PACE = 0.005
"""Seconds of work between two turns of the event loop: heartbeats and pushes go on meanwhile."""


class Compilation:
    """`note` what changes about hosts, then `settle`. `whole`: nobody has been told what comes of it yet."""

    def __init__(self, active: Active, hosts: Mapping[str, Host], now: datetime) -> None:
        self.active, self.whole = active, True
        self._noted: dict[str, Host | None] = dict(hosts)
        self._compiler = Compiler(active.policy, Inventory(), now)

    def note(self, name: str, host: Host | None) -> None:
        """The host is new or changed; None: it is gone."""
        self._noted[name] = host

    async def settle(self) -> frozenset[str]:
        """The hosts whose body is another one than before."""
        noted, self._noted = self._noted, {}
        turn = time.monotonic()
        for name, host in noted.items():
            if host is None:
                self._compiler.drop(name)
            else:
                self._compiler.put(host)
            turn = await paced(turn)
        steps = self._compiler.settling()
        while True:
            try:
                next(steps)
            except StopIteration as end:
                changed: frozenset[str] = end.value
                return changed
            turn = await paced(turn)

    def body(self, host: str) -> Body | None:
        """As of the last time that changes were settled; None for a host that is not there, or another by now."""
        return self._compiler.settled_body(host) if host not in self._noted else None


async def paced(turn: float) -> float:
    """When the turn of the event loop that goes on began (monotonic); lets others have theirs after PACE."""
    if time.monotonic() - turn <= PACE:
        return turn
    await asyncio.sleep(0)
    return time.monotonic()
