"""The simulated agents of one process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segctl.model.inventory import Address

from bench.fleet.identities import Member
from bench.fleet.link import Link
from bench.fleet.reports import Batches, Load
from bench.fleet.tally import Tally, Watch

SHAKING_HANDS = 64
"""Agents of a process that connect at a time: more only wait for each other's TLS."""
LOOK_SECONDS = 1.0
QUIET_SECONDS = 0.5
"""Without an acknowledgement, after which a change counts as through."""


@dataclass(frozen=True, slots=True)
class Churn:
    """How many agents of this process lose their connection, and how many change their addresses, in a second."""

    reconnects: float = 0.0
    moves: float = 0.0


class Crowd:
    """Its coroutines are orders (orders.py)."""

    def __init__(
        self, members: Sequence[Member], load: Load, others: tuple[Address, ...], verify: bool, steady: bool
    ) -> None:
        self._tally = Tally()
        self._links = {
            m.identity.host: Link(m, self._tally, Batches(m.identity.host, load, others), verify, steady)
            for m in members
        }
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect, and stay connected; returns at once."""
        turns = asyncio.Semaphore(SHAKING_HANDS)
        for link in self._links.values():
            self._keep(asyncio.create_task(link.run(turns)))
        self._keep(asyncio.create_task(self._look()))

    async def totals(self) -> dict[str, Any]:
        return self._tally.totals()

    async def settle(self) -> None:
        """Before a measurement: what the collector would look through again and again is put aside."""
        gc.collect()
        gc.freeze()

    async def expect(self, wanted: int, stored: bool) -> None:
        """Begin to watch for acknowledgements: see Watch."""
        self._tally.watch = Watch(wanted, stored)

    async def expected(self, seconds: float) -> list[float]:
        """When each agent acknowledged last, ascending, once all have and no more comes; fewer than were wanted when
        `seconds` did not suffice."""
        watch = self._tally.watch
        assert watch is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await watch.whole.wait()
                acks = -1
                while acks != watch.acks:
                    acks = watch.acks
                    await asyncio.sleep(QUIET_SECONDS)
        return sorted(watch.times.values())

    async def claim(self, more: dict[str, list[Address]]) -> None:
        """Those hosts tell these addresses beside their own."""
        for host in more.keys() & self._links.keys():
            self._links[host].claim(more[host])

    async def churn(self, wanted: Churn) -> None:
        """From now on."""
        self._keep(asyncio.create_task(self._reconnects(wanted.reconnects)))
        self._keep(asyncio.create_task(self._moves(wanted.moves)))

    async def reported(self) -> list[tuple[str, str, int, int]]:
        """Host, epoch, and the sequences of the last batch that was acknowledged and of the last one that was sent."""
        return [(link.host, link.epoch, link.stored, link.reported) for link in self._links.values()]

    def _keep(self, task: asyncio.Task[None]) -> None:
        """A task that nobody holds may vanish, and its error with it."""
        self._tasks.add(task)
        task.add_done_callback(_ended)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for link in self._links.values():
                link.look()

    async def _reconnects(self, rate: float) -> None:
        while rate:
            await asyncio.sleep(random.expovariate(rate))
            random.choice(list(self._links.values())).hang_up()

    async def _moves(self, rate: float) -> None:
        """An address more, and at the next move of the host it is gone."""
        moved: set[str] = set()
        while rate:
            await asyncio.sleep(random.expovariate(rate))
            link = random.choice(list(self._links.values()))
            own = link.conversation.addresses[0]
            moved ^= {link.host}
            link.claim([own + MOVED] if link.host in moved else [])


MOVED = 1 << 20
"""From a host's own address to the one that it takes on: beyond those of the largest fleet."""


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "an agent stopped", "exception": task.exception(), "task": task}
        )
