"""Push and rollback: store, activate, and follow the proofs of the hosts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from segctl.model.policy import Policy
from segctl.policy.digest import policy_digest
from segctl.policy.source import SourceFile
from segctl.proto.v1 import admin_pb2

from segctl_controller.clock import Clock
from segctl_controller.errors import ConflictError, InvalidRequestError, NotFoundError
from segctl_controller.fleet import Active, Fleet
from segctl_controller.registry import Registry
from segctl_controller.review import review
from segctl_controller.store.records import Entry, GenerationRecord
from segctl_controller.store_thread import StoreThread
from segctl_controller.views import generation_view

DEFAULT_WAIT = 30
LONGEST_WAIT = 3600
LONGEST_MESSAGE = 2000
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


class Publisher:
    """Turns proposals into active generations, one at a time."""

    def __init__(self, registry: Registry, db: StoreThread, clock: Clock) -> None:
        self._registry = registry
        self._db = db
        self._clock = clock
        self._one = asyncio.Lock()

    @property
    def fleet(self) -> Fleet:
        return self._registry.fleet

    async def publish(self, proposal: Proposal) -> GenerationRecord:
        """Store and activate, whole even if the caller goes away in between.

        Raises PolicyError with every finding, ConflictError when an expectation does not hold.
        """
        if len(proposal.message) > LONGEST_MESSAGE:
            raise InvalidRequestError(f"the message is longer than {LONGEST_MESSAGE} characters")
        return await self._db.whole(self._publish(proposal))

    async def _publish(self, proposal: Proposal) -> GenerationRecord:
        async with self._one:
            inventory, controller = self.fleet.inventory, self._registry.controller_addresses
            look = partial(review, proposal.files, inventory, self._clock.now(), controller)
            policy = (await asyncio.to_thread(look)).accepted()
            digest = policy_digest(policy)
            if proposal.expect_digest and proposal.expect_digest != digest:
                raise ConflictError(
                    f"the policy is not the one that was planned (planned {proposal.expect_digest[:12]}, sent "
                    f"{digest[:12]}); run segctl plan again, look at the difference, then push"
                )
            now = self._clock.now_us()
            new = GenerationRecord(digest, proposal.author, proposal.message, now, proposal.files, proposal.rollback_of)
            action = "rollback" if proposal.rollback_of else "push"
            back = f"to generation {proposal.rollback_of}" if proposal.rollback_of else ""
            detail = ": ".join(part for part in (back, proposal.message) if part)
            detail = f"{detail} (digest {digest[:12]})".lstrip()
            entry = Entry(now, proposal.author, action, "", detail)
            stored = await self._db.call(self._db.store.add_generation, new, proposal.expect_base, entry)
            self.activate(stored, policy)
            log.info("%s generation=%d author=%s digest=%s", action, stored.number, stored.author, digest[:12])
        await self._registry.reconsider()
        return stored

    def activate(self, stored: GenerationRecord, policy: Policy) -> None:
        self.fleet.activate(Active(stored.number, stored.digest, policy))

    async def rollback(self, number: int, author: str, message: str, expect_base: int = 0) -> GenerationRecord:
        """A new generation with the content of an old one, checked again against the fleet of today."""
        active = expect_base or self.fleet.active.number
        current = await self._db.call(self._db.store.generation, active) if active and not number else None
        if current is not None and current.rollback_of:
            raise InvalidRequestError(
                f"generation {current.number} is itself a rollback, to {current.rollback_of}: name the GENERATION you "
                "want; segctl history shows what there is"
            )
        wanted = number or active - 1
        old = await self._db.call(self._db.store.generation, wanted) if wanted > 0 else None
        if old is None:
            what = f"generation {number}" if number else "a generation before the current one"
            raise NotFoundError(f"there is no {what}; segctl history shows what there is")
        return await self.publish(Proposal(old.files, author, message, "", active, old.number))

    async def follow(self, stored: GenerationRecord, wait_seconds: int) -> AsyncIterator[admin_pb2.PushProgress]:
        """The stored generation, a proof a host as they come, and the sums. Giving up changes nothing."""
        wait = min(wait_seconds or DEFAULT_WAIT, LONGEST_WAIT)
        loop = asyncio.get_running_loop()
        began, deadline = loop.time(), loop.time() + wait
        view = generation_view(stored, self.fleet.active.number)
        yield admin_pb2.PushProgress(stored=view)
        told: dict[str, str] = {}
        with self.fleet.watch() as changed:
            while True:
                changed.clear()
                open_hosts = 0
                for name in sorted(self.fleet.hosts):
                    if name in told:
                        continue
                    proof = host_proof(self.fleet, name, stored.number)
                    if proof.state == "waiting":
                        open_hosts += 1
                        continue
                    told[name] = proof.state
                    proof.after_us = int((loop.time() - began) * 1e6)
                    yield admin_pb2.PushProgress(host=proof)
                if not open_hosts:
                    break
                try:
                    async with asyncio.timeout_at(deadline):
                        await changed.wait()
                except TimeoutError:
                    break
        for name in sorted(set(self.fleet.hosts) - set(told)):
            told[name] = "waiting"
            yield admin_pb2.PushProgress(host=admin_pb2.HostProof(host=name, state="waiting", after_us=wait * 10**6))
        counts = {state: sum(s == state for s in told.values()) for state in set(told.values())}
        yield admin_pb2.PushProgress(done=admin_pb2.PushDone(**counts))


def host_proof(fleet: Fleet, name: str, number: int) -> admin_pb2.HostProof:
    """Where one host stands with generation `number`, or with a newer one that took its place."""
    standing, wanted = fleet.standing(name), fleet.desired.get(name)
    proof = admin_pb2.HostProof(host=name, state="waiting")
    if not standing.connected:
        proof.state = "offline"
        proof.never_connected = fleet.state(name) == "never-connected"
    elif standing.released:
        proof.state = "released"
        proof.errors.append(standing.released)
    elif wanted is not None and wanted.generation >= number:
        if standing.proof is not None and standing.proof.digest == wanted.digest:
            proof.state = "proven"
            proof.kernel_digest = standing.proof.kernel_digest
        elif standing.refusal is not None and standing.refusal.digest == wanted.digest:
            proof.state = "refused"
            proof.errors.extend(standing.refusal.errors)
    return proof
