"""While the CA is rotated, connected hosts are asked to renew soon: half of a certificate's life may be weeks away."""

from __future__ import annotations

import asyncio

from segctl_controller.registry import Registry
from segctl_controller.rotation import CaSet, Stage
from segctl_controller.trust import Trust

LOOK_SECONDS = 2.0
A_SECOND = 20
"""Renewals, over which those of a fleet are spread."""
SHORTEST_SECONDS = 5
AT_ONCE = 500
"""Hosts that are looked at between two turns of the event loop."""


class Hastening:
    """Each session is asked once."""

    def __init__(self, trust: Trust, registry: Registry) -> None:
        self._trust, self._registry = trust, registry

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            cas = self._trust.cas
            if cas.stage is Stage.ACTIVE:
                await self._look(cas)

    async def _look(self, cas: CaSet) -> None:
        hosts = tuple(self._registry.fleet.hosts.items())
        within = max(SHORTEST_SECONDS, len(hosts) // A_SECOND)
        for number, (host, record) in enumerate(hosts):
            session = self._registry.session(host)
            if session is not None and cas.giver(record.serial) is not cas.signing:
                session.renew_soon(within)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
