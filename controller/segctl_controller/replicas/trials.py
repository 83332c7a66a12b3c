"""The trial of a generation over all controllers. One runs it, and stores which host is how far; the others have it as
their own fleet's trial, so that their sessions stage it, try it out and prove it, and follow what is stored.

    the one: Rollout ─▶ Fleet.trial ─▶ table trials ─▶ the others: Fleet.trial ─▶ sessions ─▶ presence ─▶ the one

What becomes of it is the state of the generation, stored once, by the one; or, when that one is gone, by whoever
notices. So no controller tells a host that it is confirmed which was not stored, and none keeps a host on trial for a
controller that is gone.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from segctl.errors import StateError
from segctl.logs import Event, about
from segctl.policy.parse import parse_policy
from segctl.proto.v1 import admin_pb2 as pb

from segctl_controller.push import Publisher
from segctl_controller.replicas.distant import DistantRollout
from segctl_controller.replicas.roster import LEASE_SECONDS, Roster
from segctl_controller.rollout import Rollout
from segctl_controller.store.records import GenerationRecord, GenerationState
from segctl_controller.store.shared import SharedStore, TrialRecord
from segctl_controller.store_thread import StoreThread
from segctl_controller.trial import Active, Phase, Trial

AGAIN_SECONDS = 0.5
LONGEST_WISH = 200
log = logging.getLogger(__name__)


class Trials:
    """`run` stores our own, `follow` follows that of another controller and what became of it."""

    def __init__(self, publisher: Publisher, shared: SharedStore, db: StoreThread, roster: Roster) -> None:
        self._publisher, self._shared, self._db, self._roster = publisher, shared, db, roster
        self._fleet = publisher.fleet
        self._wake = asyncio.Event()
        self._following = asyncio.Lock()
        self._distant: DistantRollout | None = None
        self._row: TrialRecord | None = None
        self._row_since = 0.0  # when its controller was first heard to run it
        self._pending = 0  # the generation that is on trial, as far as is known
        self._unowned: tuple[int, float] = (0, 0.0)  # one that nobody may run any more, and since when

    # Our own

    def changed(self) -> None:
        """The fleet's trial."""
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(0)  # a phase of many hosts is one row
            own, trial = self._own(), self._fleet.trial
            if own is None or trial is None or trial.active.number != own.stored.number:
                continue
            record = _record(self._roster.own, trial, own.phase)
            self._pending = record.generation  # should its end not be stored
            self._read(record)
            try:
                await self._db.call(self._shared.keep_trial, record)
            except StateError as error:
                log.error("other controllers do not hear of the trial: %s", error, extra=about(Event.STORE))
                await asyncio.sleep(AGAIN_SECONDS)
                self._wake.set()

    def _own(self) -> Rollout | None:
        """That runs here now."""
        running = self._publisher.rollout
        if isinstance(running, Rollout) and not running.over and running.stored.state is GenerationState.TRIAL:
            return running
        return None

    # That of another

    async def follow(self) -> None:
        """Raises StateError."""
        async with self._following:
            pushes = await self._db.read(self._shared.pushes)
            newest = pushes.newest
            self._read(pushes.trial)
            self._pending = newest.number if newest is not None and newest.state is GenerationState.TRIAL else 0
            own = self._own()
            if own is not None:
                self._heed(own, newest)
                return
            if self._distant is not None:
                await self._advance(self._distant, newest)
            if self._pending:
                await self._join(self._pending)
            if pushes.active != self._fleet.active.number:
                await self._activate()

    def _read(self, row: TrialRecord | None) -> None:
        before, self._row = self._row, row
        if row is not None and (before is None or before.replica != row.replica):
            self._row_since = asyncio.get_running_loop().time()

    def _heed(self, own: Rollout, newest: GenerationRecord | None) -> None:
        """What others want of our own trial."""
        row, number = self._row, own.stored.number
        if row is not None and row.generation == number and row.ended_by:
            own.stop(row.ended_by)
        if newest is not None and newest.number == number and newest.state is GenerationState.UNDONE:
            own.stop(newest.why)

    async def _advance(self, distant: DistantRollout, newest: GenerationRecord | None) -> None:
        stored = newest
        if stored is None or stored.number != distant.stored.number:
            stored = await self._db.call(self._db.store.generation, distant.stored.number)
        trial = self._fleet.trial
        if stored is None or stored.state is GenerationState.TRIAL:
            if self._row is not None and self._row.generation == distant.stored.number and trial is not None:
                self._fleet.step(_phases(self._row))
                distant.enter(pb.PushPhase.FromString(self._row.step))
            return
        if trial is not None and trial.active.number == stored.number:
            if stored.state is GenerationState.CONFIRMED:
                self._fleet.confirm()
            else:
                self._fleet.undo(stored.why)
        told = Event.CONFIRMED if stored.state is GenerationState.CONFIRMED else Event.UNDONE
        text = "generation=%d, which another controller ran, is %s"
        log.info(text, stored.number, stored.state.value, extra=about(told, generation=stored.number))
        self._distant = None
        distant.settle(stored)

    async def _join(self, number: int) -> None:
        row = self._row
        if self._distant is not None or row is None or row.generation != number or row.replica == self._roster.own:
            return
        stored = await self._db.call(self._db.store.generation, number)
        if stored is None or stored.state is not GenerationState.TRIAL:
            return
        active = await _active(stored)
        if self._fleet.trial is not None:
            return  # it ended meanwhile, and one of our own began
        self._fleet.join(Trial(active, _phases(row), row.accept_denials))
        self._distant = DistantRollout(self._fleet, stored, partial(self._end, number))
        self._distant.enter(pb.PushPhase.FromString(row.step))
        self._publisher.rollout = self._distant

    async def _activate(self) -> None:
        """What is confirmed, where that is not known yet."""
        if self._fleet.trial is not None:
            return  # its generation is above what is active, and its end comes by itself
        stored = await self._db.call(self._db.store.generation, 0)
        if stored is not None and stored.number != self._fleet.active.number:
            active = await _active(stored)
            if self._own() is None and self._fleet.trial is None:
                self._fleet.activate(active)

    def _end(self, number: int, by: str) -> None:
        self._db.post(self._shared.end_trial, number, by[:LONGEST_WISH])

    # One whose controller is gone

    def abandoned(self, number: int) -> bool:
        """Whether no controller runs the trial of this generation any more."""
        row = self._row
        if row is None or row.generation != number:
            return self._unowned[0] == number and self._since_unowned() > LEASE_SECONDS
        if row.replica == self._roster.own:
            return self._own() is None
        return self._roster.gone(row.replica, self._row_since)

    async def settle_abandoned(self) -> None:
        """Also of one that ended before it could say what it runs. Raises StateError."""
        number = self._pending
        if not number or self._own() is not None:
            return
        if self._unowned[0] != number:
            self._unowned = (number, asyncio.get_running_loop().time())
        if self.abandoned(number):
            await self._publisher.settle_leftovers()
            await self.follow()

    def _since_unowned(self) -> float:
        return asyncio.get_running_loop().time() - self._unowned[1]

    def lost_touch(self, why: str) -> None:
        """The database is out of reach: others may settle our trial, and theirs may have ended."""
        own = self._own()
        if own is not None:
            own.stop(why)

    @property
    def tried(self) -> tuple[str, ...]:
        """Hosts that are to hold what another controller has on trial."""
        trial = self._fleet.trial
        if self._distant is None or trial is None:
            return ()
        return tuple(host for host, phase in trial.phases.items() if phase is not Phase.STAGED)


def _record(replica: str, trial: Trial, step: pb.PushPhase) -> TrialRecord:
    hosts: dict[str, list[str]] = {}
    for host, phase in trial.phases.items():
        hosts.setdefault(phase.name, []).append(host)
    return TrialRecord(trial.active.number, replica, hosts, trial.accept_denials, step.SerializeToString())


def _phases(row: TrialRecord) -> dict[str, Phase]:
    return {host: Phase[name] for name, hosts in row.phases.items() for host in hosts}


async def _active(stored: GenerationRecord) -> Active:
    """Raises StateError for a policy that this version does not understand."""
    parsed = await asyncio.to_thread(parse_policy, stored.files)
    if parsed.policy is None:
        raise StateError(
            f"generation {stored.number}, which another controller stored, is no policy for this version of "
            f"segctl-controller ({parsed.findings[0]}); run one version on all machines"
        )
    return Active(stored.number, stored.digest, parsed.policy)
