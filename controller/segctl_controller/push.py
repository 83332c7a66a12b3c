"""Push and rollback: a proposal becomes a generation on trial, and what becomes of that is stored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from segctl.logs import Event, about
from segctl.model.policy import Policy
from segctl.policy.digest import policy_digest
from segctl.policy.source import SourceFile
from segctl.proto.v1 import admin_pb2 as pb

from segctl_controller.clock import Clock
from segctl_controller.errors import ConflictError, InvalidRequestError, NotFoundError
from segctl_controller.fleet import Fleet
from segctl_controller.principal import Principal
from segctl_controller.registry import Registry
from segctl_controller.review import Review, review
from segctl_controller.rollout import Rollout
from segctl_controller.scoped import is_owner, refuse_ending, refuse_outside, refuse_way
from segctl_controller.store.records import Entry, GenerationRecord, GenerationState
from segctl_controller.store.refusals import no_host, not_on_trial, on_trial
from segctl_controller.store_thread import StoreThread
from segctl_controller.trial import Active
from segctl_controller.way import Way

LONGEST_MESSAGE = 2000
LONGEST_WHY = 2000
MOST_LOOKED_AT = 1000
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What should become the next generation. Empty expectations: whatever is active."""

    files: tuple[SourceFile, ...]
    author: str
    message: str
    expect_digest: str = ""
    expect_base: int = 0
    rollback_of: int = 0
    by: Principal | None = None
    """Who asks, where that bounds what may change."""


class Running(Protocol):
    """A push, whoever runs it."""

    stored: GenerationRecord
    phase: pb.PushPhase

    @property
    def over(self) -> bool: ...
    @property
    def proven(self) -> int: ...
    def stop(self, why: str) -> None: ...
    def follow(self, *, together: bool = False) -> AsyncIterator[pb.PushProgress]: ...


async def _nothing() -> None: ...


def _accepted(look: Callable[[], Review]) -> tuple[Policy, str]:
    """With its digest. Raises PolicyError."""
    policy = look().accepted()
    return policy, policy_digest(policy)


class Publisher:
    """Turns proposals into generations, one at a time."""

    def __init__(self, registry: Registry, db: StoreThread, clock: Clock) -> None:
        self._registry = registry
        self._db = db
        self._clock = clock
        self._one = asyncio.Lock()
        self._running: asyncio.Task[None] | None = None
        self.rollout: Running | None = None
        self.catch_up: Callable[[], Awaitable[None]] = _nothing
        """Before anything begins: what another controller may have begun or ended."""
        self.abandoned: Callable[[int], bool] = lambda _number: True
        """Whether nobody runs the trial of this generation, which is not ours."""

    @property
    def fleet(self) -> Fleet:
        return self._registry.fleet

    async def publish(self, proposal: Proposal, way: Way | None = None) -> Rollout:
        """Store it and begin to bring it into force, whatever becomes of the caller in between.

        Raises PolicyError with every finding, ConflictError when an expectation does not hold, InvalidRequestError for
        a way that names hosts which are not there.
        """
        if len(proposal.message) > LONGEST_MESSAGE:
            raise InvalidRequestError(f"the message is longer than {LONGEST_MESSAGE} characters")
        way = way or Way()
        self._possible(way)
        return await self._db.whole(self._publish(proposal, way))

    def _possible(self, way: Way) -> None:
        strangers = sorted(way.without - self.fleet.hosts.keys())
        if strangers:
            raise InvalidRequestError(f"{no_host(strangers[0][:80])} (of those that are to have no say)")
        if way.canary and not any(
            way.canary.items() <= dict(host.tags.pairs).items() and self.fleet.standing(name).connected
            for name, host in self.fleet.hosts.items()
        ):
            tags = ", ".join(f"{k}={v}" for k, v in sorted(way.canary.items()))[:200]
            raise InvalidRequestError(f"no connected host has the tags of the canary ({tags}); segctl host list")

    async def _publish(self, proposal: Proposal, way: Way) -> Rollout:
        async with self._one:
            await self.catch_up()
            if self.rollout is not None and not self.rollout.over:
                raise ConflictError(on_trial(self.rollout.stored.number))
            await self.settle_leftovers()
            inventory, controller = self.fleet.inventory, self._registry.controller_addresses
            look = partial(review, proposal.files, inventory, self._clock.now(), controller)
            policy, digest = await asyncio.to_thread(_accepted, look)
            if proposal.by is not None:
                await asyncio.to_thread(refuse_outside, proposal.by, self.fleet.active.policy, policy)
                refuse_way(proposal.by, way, self.fleet.hosts)
            if proposal.expect_digest and proposal.expect_digest != digest:
                raise ConflictError(
                    f"the policy is not the one that was planned (planned {proposal.expect_digest[:12]}, sent "
                    f"{digest[:12]}); run segctl plan again, look at the difference, then push"
                )
            stored = await self._store(proposal, digest)
            settle = partial(self._settle, stored, proposal.author)
            self.rollout = rollout = Rollout(self.fleet, stored, policy, way, settle)
            self._running = asyncio.create_task(self._run(rollout), name="rollout")
        return rollout

    async def _store(self, proposal: Proposal, digest: str) -> GenerationRecord:
        now = self._clock.now_us()
        new = GenerationRecord(
            digest,
            proposal.author,
            proposal.message,
            now,
            proposal.files,
            proposal.rollback_of,
            state=GenerationState.TRIAL,
        )
        action = "rollback" if proposal.rollback_of else "push"
        back = f"to generation {proposal.rollback_of}" if proposal.rollback_of else ""
        detail = ": ".join(part for part in (back, proposal.message) if part)
        detail = f"{detail} (digest {digest[:12]})".lstrip()
        by = proposal.by
        entry = by.entry(now, action, "", detail) if by else Entry(now, proposal.author, action, "", detail)
        above = self.fleet.newest_held()
        # What an owner may change was judged against this one.
        base = proposal.expect_base or (self.fleet.active.number if is_owner(by) else 0)
        stored = await self._db.call(self._db.store.add_generation, new, base, entry, above)
        told = about(Event(action), generation=stored.number, digest=digest, actor=stored.author)
        log.info("%s generation=%d author=%s digest=%s", action, stored.number, stored.author, digest[:12], extra=told)
        return stored

    async def _settle(
        self, stored: GenerationRecord, author: str, state: GenerationState, why: str
    ) -> GenerationRecord:
        action = "confirm" if state is GenerationState.CONFIRMED else "undo"
        entry = Entry(self._clock.now_us(), author, action, f"generation {stored.number}", why[:1000])
        try:
            return await self._db.call(self._db.store.settle, stored.number, state, why[:LONGEST_WHY], entry)
        except ConflictError:
            # A commit may have failed for us and been durable all the same: what the store says is what counts.
            known = await self._db.call(self._db.store.generation, stored.number)
            if known is None:
                raise
            return known

    async def _run(self, rollout: Rollout) -> None:
        await rollout.run()
        await self._registry.reconsider()

    async def settle_leftovers(self) -> None:
        """What was on trial when the controller ended is undone: so it is at the agents, who lost their controller."""
        for newest in await self._db.call(self._db.store.generations, 1):
            if newest.state is GenerationState.TRIAL and self.abandoned(newest.number):
                told = about(Event.UNDONE, generation=newest.number)
                text = "generation %d was on trial when the controller ended: it is undone"
                log.warning(text, newest.number, extra=told)
                why = "the controller ended while it was on trial"
                await self._settle(newest, "controller", GenerationState.UNDONE, why)
                await self.catch_up()

    async def close(self) -> None:
        """What is on trial stays so until the next start."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def cancel(self, by: Principal) -> Running | None:
        """End what is on trial; None when nothing is."""
        if self.rollout is None or self.rollout.over:
            return None
        refuse_ending(by, self.rollout.stored.author)
        self.rollout.stop(f"{by.name} ended it")
        return self.rollout

    def end(self, number: int, by: Principal) -> Running:
        """End the trial of this generation. Raises ConflictError when it is not on trial any more: somebody may have
        been asked for a while whether to end it."""
        if self.rollout is None or self.rollout.stored.number != number or self.cancel(by) is None:
            raise ConflictError(f"{not_on_trial(number)}, and nothing was changed; segctl history tells its end")
        return self.rollout

    def activate(self, stored: GenerationRecord, policy: Policy) -> None:
        self.fleet.activate(Active(stored.number, stored.digest, policy))

    async def rollback(
        self, number: int, by: Principal, message: str, expect_base: int = 0, way: Way | None = None
    ) -> Running:
        """A new generation with the content of an old one, checked again against the fleet of today. With number 0 and
        a generation on trial, the end of that."""
        await self.catch_up()
        running = self.cancel(by) if not number else None
        if running is not None:
            return running
        active = expect_base or self.fleet.active.number
        current = await self._db.call(self._db.store.generation, active) if active and not number else None
        if current is not None and current.rollback_of:
            raise InvalidRequestError(
                f"generation {current.number} is itself a rollback, to {current.rollback_of}: name the GENERATION you "
                "want; segctl history shows what there is"
            )
        old = await self._before(active) if not number else await self._db.call(self._db.store.generation, number)
        if old is None:
            what = f"generation {number}" if number else "a generation before the current one"
            raise NotFoundError(f"there is no {what}; segctl history shows what there is")
        return await self.publish(Proposal(old.files, by.name, message, "", active, old.number, by), way)

    async def _before(self, active: int) -> GenerationRecord | None:
        """The generation that was in force before the active one."""
        for known in await self._db.call(self._db.store.generations, MOST_LOOKED_AT):
            if known.number < active and known.state is GenerationState.CONFIRMED:
                return await self._db.call(self._db.store.generation, known.number)
        return None
