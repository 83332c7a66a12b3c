"""A policy as its statements: the one in force, that of a generation, or the one of a moment."""

from __future__ import annotations

from datetime import UTC, datetime

from segctl.errors import StateError
from segctl.model.policy import Policy, Workload
from segctl.policy.parse import parse_policy
from segctl.proto.v1 import admin_pb2

from segctl_controller.clock import Clock
from segctl_controller.errors import InvalidRequestError, NotFoundError
from segctl_controller.fleet import Fleet
from segctl_controller.store.records import GenerationRecord, GenerationState
from segctl_controller.store_thread import StoreThread
from segctl_controller.turns import Turns
from segctl_controller.views import generation_view

MOST_GENERATIONS = 10_000
"""Further back than this nobody looks by a moment."""
LATEST = 2**62
PARTS = ("rules", "boundaries", "modes", "peers", "services", "workloads", "tags")


class Described:
    def __init__(self, fleet: Fleet, db: StoreThread, turns: Turns, clock: Clock) -> None:
        self._fleet = fleet
        self._db = db
        self._turns = turns
        self._clock = clock

    async def of(self, request: admin_pb2.DescribePolicyRequest, asking: str) -> admin_pb2.PolicyDescription:
        """Raises NotFoundError for a generation that is not there, StateError for one that cannot be read any more."""
        if request.at_us < 0 or (request.at_us and request.generation):
            raise InvalidRequestError("give a generation, or a moment at_us from 1970 on")
        if any(part not in PARTS for part in request.parts):
            raise InvalidRequestError(f"parts are {', '.join(PARTS)}")
        parts = frozenset(request.parts or PARTS)
        at_us = min(request.at_us, LATEST) or self._clock.now_us()
        number = min(request.generation, LATEST) or await self._in_force(at_us)
        if not number:
            return admin_pb2.PolicyDescription()
        record = await self._db.call(self._db.store.generation, number)
        if record is None:
            raise NotFoundError(f"there is no generation {number}; segctl history shows what there is")
        active, at = self._fleet.active, datetime.fromtimestamp(min(at_us / 1e6, 253_402_300_799), UTC)
        known = active.policy if record.number == active.number else None

        def describe(record: GenerationRecord = record) -> admin_pb2.PolicyDescription:
            return _described(record, known or _parsed(record), active.number, at, parts)

        return await self._turns.take(asking, describe)

    async def _in_force(self, at_us: int) -> int:
        """The last generation that was confirmed and pushed by then; 0: none."""
        for record in await self._db.call(self._db.store.generations, MOST_GENERATIONS):
            if record.state is GenerationState.CONFIRMED and record.created_us <= at_us:
                return record.number
        return 0


def _parsed(record: GenerationRecord) -> Policy:
    """Raises StateError."""
    parsed = parse_policy(record.files)
    if parsed.policy is None:
        raise StateError(f"generation {record.number} is no policy for this version: {parsed.findings[0]}")
    return parsed.policy


def _described(
    record: GenerationRecord, policy: Policy, active: int, at: datetime, parts: frozenset[str]
) -> admin_pb2.PolicyDescription:
    reply = admin_pb2.PolicyDescription(generation=generation_view(record, active), tests=len(policy.tests))
    for rule in policy.rules if "rules" in parts else ():
        reply.rules.add(
            name=rule.name,
            source=str(rule.source),
            destination=str(rule.destination),
            allow=rule.allow,
            within=rule.within,
            owner=rule.owner,
            why=rule.why,
            review=rule.review.isoformat() if rule.review else "",
            expires=rule.expires,
            expired=rule.until is not None and rule.until <= at,
            file=rule.where.file,
            line=rule.where.line,
        )
    for boundary in policy.boundaries if "boundaries" in parts else ():
        where = boundary.where
        reply.boundaries.add(
            name=boundary.name,
            source=str(boundary.source),
            destination=str(boundary.destination),
            file=where.file,
            line=where.line,
        )
    for mode in policy.modes if "modes" in parts else ():
        reply.modes.add(select=str(mode.select), mode=mode.mode.value, file=mode.where.file, line=mode.where.line)
    for peer in policy.peers.values() if "peers" in parts else ():
        reply.peers.add(name=peer.name, values=map(str, peer.networks))
    for service in policy.services.values() if "services" in parts else ():
        reply.services.add(name=service.name, values=map(str, service.ports))
    for workload in policy.workloads.values() if "workloads" in parts else ():
        reply.workloads.add(name=workload.name, values=_workload(workload))
    for key, values in policy.tags.items() if "tags" in parts else ():
        reply.tags.add(name=key, values=values)
    return reply


def _workload(workload: Workload) -> tuple[str, ...]:
    on = f"on {workload.on}" if workload.on.pairs else "on every host"
    own = (f"has {workload.tags}",) if workload.tags.pairs else ()
    return (str(workload.process), on, *own)
