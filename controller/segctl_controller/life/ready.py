"""Admin.Readiness: which selectors are ready for their next phase, and what keeps the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice

from segctl.model.findings import Finding
from segctl.model.inventory import Inventory
from segctl.model.policy import HOST_WORKLOAD, Mode, Policy, Selector, Tags
from segctl.policy.checks.meeting import find_rights_that_meet
from segctl.policy.life.past import Age, Past, mode_of
from segctl.policy.life.phases import phase_after
from segctl.policy.life.readiness import Readiness, assess
from segctl.policy.life.season import DAY_US
from segctl.policy.satisfy import run_tests
from segctl.proto.v1 import admin_pb2

from segctl_controller.clock import Clock
from segctl_controller.errors import InvalidRequestError
from segctl_controller.fleet import Fleet
from segctl_controller.flowstore.claiming import Claims
from segctl_controller.flowstore.draft import keys_of
from segctl_controller.flowstore.records import KindRow
from segctl_controller.flowstore.thread import FlowThread
from segctl_controller.life.gathering import Classes, Target, kinds_of, with_denials
from segctl_controller.life.history import PolicyHistory
from segctl_controller.life.wire import readiness_view
from segctl_controller.store.records import DenialFilter, DenialRecord
from segctl_controller.store_thread import StoreThread
from segctl_controller.turns import Turns

MOST_SELECTORS = 64
MOST_TAGS = 16
LONGEST = 64
MOST_KINDS = 200_000
MOST_DENIALS = 100_000
SEEN_DAYS = 61
"""How far back flows are looked at: a bitmap of 63 bits holds the days, the first and the last one in part."""
LONGEST_PHASE = 3650


@dataclass(frozen=True, slots=True)
class _Asked:
    select: Selector
    phase: Mode
    since: Age
    from_us: int


@dataclass(frozen=True, slots=True)
class _Told:
    """What hosts told from `begin` on: kinds of flows, with their numbers since each of `marks`; bit 0 of their days is
    the day of `begin`. `whole`: these are all."""

    begin: int
    marks: Sequence[int]
    keys: frozenset[str]
    rows: Sequence[KindRow]
    denials: Sequence[DenialRecord]
    lost: int

    @property
    def whole(self) -> bool:
        return len(self.rows) < MOST_KINDS

    def targets(self, asked: Sequence[_Asked]) -> list[Target]:
        return [Target(one.select, phase_after(one.phase), self.marks.index(one.from_us)) for one in asked]


class ReadyQuestions:
    def __init__(
        self, fleet: Fleet, db: StoreThread, flows: FlowThread, clock: Clock, history: PolicyHistory, turns: Turns
    ) -> None:
        self._fleet, self._db, self._flows = fleet, db, flows
        self._clock, self._history, self._turns = clock, history, turns

    async def ask(self, request: admin_pb2.ReadinessRequest, operator: str) -> admin_pb2.ReadinessReply:
        """Raises InvalidRequestError, LimitError where the operator asks too much at once."""
        active, inventory, now = self._fleet.active, self._fleet.inventory, self._clock.now()
        policy, now_us = active.policy, self._clock.now_us()
        chosen = _selectors(request, policy)
        if active.number and not (chosen or policy.modes):
            chosen = [Selector()]  # all observes, without being told
        if not 0 <= request.since_us <= now_us or request.least_days > LONGEST_PHASE:
            raise InvalidRequestError("since_us or least_days is out of bounds")
        begin = max(now_us - SEEN_DAYS * DAY_US, 0)
        past = await self._history.past()
        asked = await asyncio.to_thread(_asked, chosen, policy, past, max(request.since_us, begin))
        more, asked = len(asked) > MOST_SELECTORS, asked[:MOST_SELECTORS]
        told = await self._told(asked, policy, begin, now_us)
        least = float(request.least_days) if request.HasField("least_days") else None
        found = await self._turns.take(operator, partial(_assessed, asked, told, policy, inventory, now, least))
        return admin_pb2.ReadinessReply(
            selectors=[readiness_view(one, policy) for one in found],
            generation=active.number,
            more=more or not told.whole or len(told.denials) == MOST_DENIALS,
            lost=told.lost,
        )

    async def _told(self, asked: Sequence[_Asked], policy: Policy, begin: int, now_us: int) -> _Told:
        earliest = min((one.from_us for one in asked), default=begin)
        marks = [*sorted({one.from_us for one in asked}), now_us - DAY_US]
        keys = keys_of(policy) | {key for one in asked for key, _ in one.select.tags.pairs}
        store, denials = self._flows.store, DenialFilter(MOST_DENIALS, since_us=earliest)
        return _Told(
            begin=begin,
            marks=marks,
            keys=keys,
            rows=await self._flows.read(store.kinds, begin, 0, MOST_KINDS, keys, marks, Claims(policy)),
            denials=await self._db.call(self._db.store.denials, denials),
            lost=await self._flows.read(store.lost, "", earliest),
        )


def _assessed(
    asked: Sequence[_Asked], told: _Told, policy: Policy, inventory: Inventory, now: datetime, least: float | None
) -> list[Readiness]:
    first_day, targets = told.begin // DAY_US, told.targets(asked)
    classes = Classes(policy, targets)
    every = with_denials(told.rows, told.denials, told.keys, told.marks, first_day, Claims(policy))
    kinds, hosts = kinds_of(every, classes, targets, policy, now), classes.hosts(inventory)
    broken = _broken(policy, inventory, now)
    return [
        assess(one.select, one.phase, one.since, hosts[at], kinds[at], first_day, broken, now, least, whole=told.whole)
        for at, one in enumerate(asked)
    ]


def _asked(chosen: Sequence[Selector], policy: Policy, past: Past, since_us: int) -> list[_Asked]:
    """Where none is chosen, entries of modes that do not enforce yet, and one more than is looked at. Flows count since
    then, but not from before the phase."""
    entries = dict.fromkeys(entry.select for entry in policy.modes)
    phases = ((select, mode_of(policy, select)) for select in chosen or entries)
    wanted = ((select, phase) for select, phase in phases if chosen or phase is not Mode.ENFORCE)
    found = []
    for select, phase in islice(wanted, MOST_SELECTORS + 1):
        since = past.phase(select, phase)
        found.append(_Asked(select, phase, since, max(since_us, since.since_us)))
    return found


def _selectors(request: admin_pb2.ReadinessRequest, policy: Policy) -> list[Selector]:
    if len(request.selectors) > MOST_SELECTORS:
        raise InvalidRequestError(f"at most {MOST_SELECTORS} selectors are looked at in one question")
    return [_selector(one, policy) for one in request.selectors]


def _selector(one: admin_pb2.Selection, policy: Policy) -> Selector:
    if len(one.tags) > MOST_TAGS or max(map(len, (one.workload, *one.tags, *one.tags.values()))) > LONGEST:
        raise InvalidRequestError(f"a selector has at most {MOST_TAGS} tags, and no word over {LONGEST} characters")
    for key, value in one.tags.items():
        if value not in policy.tags.get(key, ()):
            known = ", ".join(policy.tags.get(key, ())[:20]) if key in policy.tags else ", ".join(policy.tags)
            what = f"value {value!r} of tag {key}" if key in policy.tags else f"tag {key!r}"
            raise InvalidRequestError(f"the policy in force declares no {what}; it declares {known or 'none'}")
    if one.workload and one.workload not in (HOST_WORKLOAD, *policy.workloads):
        raise InvalidRequestError(f"the policy in force declares no workload {one.workload!r}")
    return Selector(Tags.of(one.tags), one.workload or None)


def _broken(policy: Policy, inventory: Inventory, now: datetime) -> tuple[Finding, ...]:
    """They held when it was pushed; rules have ended since, and hosts came."""
    return (*run_tests(policy, now), *find_rights_that_meet(policy, inventory if inventory.hosts else None, now))
