"""A trial that another controller runs, as operators here see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from segctl.proto.v1 import admin_pb2 as pb

from segctl_controller.fleet import Fleet
from segctl_controller.hostproof import host_state, push_done
from segctl_controller.store.records import GenerationRecord, GenerationState
from segctl_controller.trial import Phase
from segctl_controller.views import generation_view


class DistantRollout:
    """Like Rollout, without `run`. `end` asks the other controller to undo it."""

    def __init__(self, fleet: Fleet, stored: GenerationRecord, end: Callable[[str], None]) -> None:
        self.stored, self.phase = stored, pb.PushPhase(name="staging")
        self._fleet, self._end = fleet, end
        self._more = asyncio.Event()

    @property
    def over(self) -> bool:
        return self.stored.state is not GenerationState.TRIAL

    @property
    def proven(self) -> int:
        """Hosts whose kernel holds it now."""
        trial = self._fleet.trial
        tried = [h for h, phase in trial.phases.items() if phase is not Phase.STAGED] if trial is not None else []
        return sum(host_state(self._fleet, host) == "proven" for host in tried)

    def stop(self, why: str) -> None:
        """Ask that it be undone, unless it is confirmed already."""
        self._end(why)

    def enter(self, phase: pb.PushPhase) -> None:
        if phase != self.phase:
            self.phase = phase
            self._wake()

    def settle(self, stored: GenerationRecord) -> None:
        """What became of it."""
        self.stored = stored
        self._wake()

    async def follow(self, *, together: bool = False) -> AsyncIterator[pb.PushProgress]:
        """From the phase it is in to the end."""
        yield pb.PushProgress(stored=generation_view(self.stored, self._fleet.active.number))
        told = None
        while not self.over:
            more = self._more
            if told != self.phase:
                told = self.phase
                yield pb.PushProgress(phase=told)
                continue
            await more.wait()
        undone = self.stored.why if self.stored.state is GenerationState.UNDONE else ""
        yield pb.PushProgress(done=push_done(self._fleet, undone))

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()
