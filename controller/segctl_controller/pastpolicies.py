"""The policy that is in force, and those that were: the history as something to judge by."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from segctl.model.policy import Policy
from segctl.policy.parse import parse_policy

from segctl_controller.clock import Clock
from segctl_controller.errors import NotFoundError, PreconditionError
from segctl_controller.fleet import Fleet
from segctl_controller.store.records import GenerationRecord, GenerationState
from segctl_controller.store_thread import StoreThread

MOST_GENERATIONS = 10_000
MOST_PARSED = 4
"""Policies of earlier generations that are kept: a large one takes a second to read, and megabytes."""


@dataclass(frozen=True, slots=True)
class InForce:
    """The policy of generation `number` (0: before the first push), as of `moment`: rules end. It was in force from
    `since_us` to `until_us` (0: it still is; both 0: it never was confirmed)."""

    number: int
    policy: Policy
    moment: datetime
    since_us: int = 0
    until_us: int = 0


class PastPolicies:
    """A generation counts from its push on, though it was on trial at first: its hosts held it by then."""

    def __init__(self, fleet: Fleet, db: StoreThread, clock: Clock) -> None:
        self._fleet = fleet
        self._db = db
        self._clock = clock
        self._parsed: OrderedDict[int, Policy] = OrderedDict()
        self._confirmed_by: tuple[int, list[GenerationRecord]] = (-1, [])

    async def now(self) -> InForce:
        active = self._fleet.active
        since, _ = _span(active.number, await self._confirmed())
        return InForce(active.number, active.policy, self._clock.now(), since)

    async def at(self, at_us: int) -> InForce:
        """The policy in force at that time, the empty one before the first push."""
        confirmed = await self._confirmed()
        number = next((one.number for one in reversed(confirmed) if one.created_us <= at_us), 0)
        moment = datetime.fromtimestamp(at_us / 1e6, UTC)
        return InForce(number, await self._policy(number), moment, *_span(number, confirmed))

    async def generation(self, number: int) -> InForce:
        """Of any generation, also of one that was undone. Raises NotFoundError."""
        policy = await self._policy(number)
        return InForce(number, policy, self._clock.now(), *_span(number, await self._confirmed()))

    async def _confirmed(self) -> list[GenerationRecord]:
        """The oldest first, without files; read anew when another one is in force."""
        number, listed = self._confirmed_by
        active = self._fleet.active.number
        if number != active:
            found = await self._db.call(self._db.store.generations, MOST_GENERATIONS)
            listed = [one for one in reversed(found) if one.state is GenerationState.CONFIRMED]
            self._confirmed_by = (active, listed)
        return listed

    async def _policy(self, number: int) -> Policy:
        active = self._fleet.active
        if number == active.number:
            return active.policy
        if number == 0:
            return Policy()
        if number not in self._parsed:
            stored = await self._db.call(self._db.store.generation, number)
            if stored is None:
                raise NotFoundError(f"there is no generation {number}; segctl history shows what there is")
            policy = (await asyncio.to_thread(parse_policy, stored.files)).policy
            if policy is None:
                raise PreconditionError(f"generation {number} is in a language that this controller no longer reads")
            self._parsed[number] = policy
            while len(self._parsed) > MOST_PARSED:
                self._parsed.popitem(last=False)
        self._parsed.move_to_end(number)
        return self._parsed[number]


def _span(number: int, confirmed: Sequence[GenerationRecord]) -> tuple[int, int]:
    """From when to when it was in force; `confirmed` are all that ever were, the oldest first."""
    numbers = [one.number for one in confirmed]
    if number == 0:
        return 0, confirmed[0].created_us if confirmed else 0
    if number not in numbers:
        return 0, 0
    at = numbers.index(number)
    return confirmed[at].created_us, confirmed[at + 1].created_us if at + 1 < len(confirmed) else 0
