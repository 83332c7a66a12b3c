"""What earlier generations said, read once each: they never change."""

from __future__ import annotations

import asyncio
import time

from segctl.policy.life.past import Past, Said, said
from segctl.policy.parse import parse_policy

from segctl_controller.store.records import GenerationRecord, GenerationState
from segctl_controller.store_thread import StoreThread

MOST_GENERATIONS = 500
PATIENCE = 10.0
"""Seconds of one question: large policies take a second each, and the next question goes on from there."""
MOST_STATEMENTS = 500_000
"""Remembered of all generations together, some 100 bytes each."""


class PolicyHistory:
    def __init__(self, db: StoreThread) -> None:
        self._db = db
        self._said: dict[int, Said | None] = {}
        self._lock = asyncio.Lock()

    async def past(self) -> Past:
        """Back to the first generation, or as far as time and memory allow."""
        listed = await self._db.call(self._db.store.generations, MOST_GENERATIONS)
        confirmed = [one for one in listed if one.state is GenerationState.CONFIRMED]
        chain: list[Said] = []
        whole, until = len(listed) < MOST_GENERATIONS, time.monotonic() + PATIENCE
        async with self._lock:
            for one in confirmed:
                if one.number not in self._said and time.monotonic() > until:
                    whole = False
                    break
                found = await self._read(one)
                if found is None:
                    whole = False
                    break
                chain.append(found)
        return await asyncio.to_thread(Past, chain, whole)

    async def _read(self, one: GenerationRecord) -> Said | None:
        if one.number in self._said:
            return self._said[one.number]
        stored = await self._db.call(self._db.store.generation, one.number)
        found = self._said[one.number] = await asyncio.to_thread(_read, stored) if stored else None
        self._forget()
        return found

    def _forget(self) -> None:
        """The oldest: questions begin at the newest."""
        while sum(kept.size for kept in self._said.values() if kept) > MOST_STATEMENTS and len(self._said) > 1:
            del self._said[min(self._said)]


def _read(stored: GenerationRecord) -> Said | None:
    """None: an earlier segctl took what this one does not read."""
    policy = parse_policy(stored.files).policy
    return said(policy, stored.created_us) if policy else None
