"""Which generation is in force, which is confirmed, and how one follows the other.

    put ─────────────────────────────▶ in force, stored: confirmed
    stage ─▶ ready ─ activate ─▶ on trial ─ confirm ─▶ stored: confirmed
                                    └ take_back ─▶ the confirmed one in force again

What is on trial is never on disk: whatever becomes of this process or of the machine, the next start is with the
generation that was confirmed last.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from segctl.errors import KernelError, StateError
from segctl.logs import Event, about
from segctl.model.hostpolicy import HostPolicy
from segctl.policy.digest import host_policy_digest

from segctl_agent.applied import Applied
from segctl_agent.boot import Boot, closed_policy
from segctl_agent.conversation import Activation, Confirmation, InForce, NewPolicy, Withdrawal
from segctl_agent.decisions import Turn
from segctl_agent.denials.values import Denial
from segctl_agent.enforcer import Enforcer
from segctl_agent.execgate.targets import target_notes, write_targets
from segctl_agent.flows.permits import PolicyIndex
from segctl_agent.session import Ended, Proof
from segctl_agent.state import StateFolder
from segctl_agent.trial import SeenFlows, Trial, describe_broken

log = logging.getLogger(__name__)

T = TypeVar("T")


class Generations:
    """One change at a time; each begun is finished, whatever becomes of who asked for it. `work` runs what may take
    long for a policy, `ready` raises StateError while nothing may be put in force. `committed` is called after each
    change of what is in force, `trial_ended` when a trial was taken back."""

    def __init__(
        self,
        folder: StateFolder,
        enforcer: Enforcer,
        work: Callable[[Callable[[], Any], HostPolicy], Awaitable[Any]],
        ready: Callable[[], None],
        tell: Callable[[str, str], object],
    ) -> None:
        self.in_force = InForce()
        self.trial: Trial | None = None
        self.ended: Ended | None = None
        self.seen = SeenFlows()
        self.committed: Callable[[], object] = lambda: None
        self.trial_ended: Callable[[Ended], object] = lambda _: None
        self.applied: Callable[[Applied], object] = lambda _: None
        self._folder, self._enforcer, self._work, self._ready, self._tell = folder, enforcer, work, ready, tell
        self._confirmed: HostPolicy | None = None
        self._closed = False  # no generation reads, and the host has rules all the same (boot.py)
        self._staged: NewPolicy | None = None
        self._proof: Proof | None = None
        self._heard = 0.0
        self._doom = ""
        self._index: PolicyIndex | None = None
        self._lock = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self._unstored: tuple[HostPolicy, Turn] | None = None

    def begin(self, boot: Boot, released: str = "") -> None:
        """What came of the start, or of a release that ended."""
        self.trial = self._staged = self._proof = None
        self._confirmed = boot.policy
        self._closed = boot.policy is None and self._enforcer.wanted is not None
        self.in_force = InForce(released=released)
        if boot.policy is not None:
            number = boot.policy.generation
            self.in_force = InForce(number, host_policy_digest(boot.policy), released, number)

    def released(self, who: str) -> None:
        """Nothing is in force any more, and nothing on trial."""
        self.trial = self._staged = self._proof = None
        self.in_force = InForce(released=who)

    @property
    def stored(self) -> bool:
        """What is confirmed would survive a reboot."""
        return self._unstored is None

    # What the controller asks

    async def put(self, new: NewPolicy) -> Proof:
        return await self._whole(self._put(new))

    async def stage(self, new: NewPolicy) -> None:
        await self._whole(self._stage(new))

    async def activate(self, asked: Activation) -> Proof:
        return await self._whole(self._activate(asked))

    async def confirm(self, asked: Confirmation) -> Proof:
        return await self._whole(self._confirm(asked))

    async def take_back(self, asked: Withdrawal) -> None:
        trial = self.trial
        if trial is not None and trial.generation == asked.generation:  # whichever draft of it is in force
            await self._whole(self._take_back(trial, asked.reason))

    async def settled(self) -> None:
        """Returns when no change is under way: who asked for one may be gone."""
        async with self._lock:
            return

    def heard(self) -> None:
        """The controller said something."""
        self._heard = time.monotonic()

    async def _whole(self, change: Coroutine[Any, Any, T]) -> T:
        async def alone() -> T:
            async with self._lock:
                return await change

        task = asyncio.create_task(alone())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _put(self, new: NewPolicy) -> Proof:
        try:
            applied = await self._apply(new)
        except KernelError as error:
            if self.trial is not None:  # which is over, whatever follows it
                self._doom = f"the controller sent generation {new.policy.generation} instead, and it failed: {error}"
            raise
        self.trial = self._proof = None
        self._confirm_in_memory(new.policy)
        self.in_force = InForce(new.policy.generation, new.digest, "", new.policy.generation)
        told = _told(Event.POLICY, new.policy, applied)
        log.info("generation %d is in force, decision ids %s, %d us", *_facts(new.policy, applied), extra=told)
        self.committed()
        stored = await self._store(new.policy, applied.turn)
        return _proof(new.policy, applied, stored=stored)

    async def _stage(self, new: NewPolicy) -> None:
        self._ready()
        await self._work(lambda: self._enforcer.rehearse(new.policy), new.policy)
        self._staged = new

    async def _activate(self, asked: Activation) -> Proof:
        staged = self._staged
        if staged is None or staged.digest != asked.digest:
            raise StateError(f"generation {asked.generation} is not staged on this host")
        if self._confirmed is None and not self._closed:
            self._folder.begin_first_trial()
        applied = await self._apply(staged)
        self._staged = None
        began_us = time.time_ns() // 1000
        trial = self.trial = Trial(asked.generation, asked.digest, asked.silence, asked.accept_denials, began_us)
        self._index = None
        self.heard()
        confirmed = self._confirmed.generation if self._confirmed is not None else 0
        self.in_force = InForce(asked.generation, asked.digest, "", confirmed)
        told = _told(Event.TRIAL, staged.policy, applied)
        log.info("generation %d is on trial, decision ids %s, %d us", *_facts(staged.policy, applied), extra=told)
        self.committed()
        await self._targets(staged.policy)
        if self._confirmed is not None:
            await self._store(self._confirmed, applied.turn)  # its ids are given, whatever becomes of the trial
        if self.trial is not trial:
            raise StateError("this host was released while it took the generation")
        self._proof = _proof(staged.policy, applied, stored=False)
        return self._proof

    async def _confirm(self, asked: Confirmation) -> Proof:
        policy, proof = self._enforcer.policy, self._proof
        if self.trial is None or self.trial.digest != asked.digest or policy is None or proof is None:
            self._doom = "another policy than the one on trial was confirmed"
            raise StateError(f"generation {asked.generation} is not on trial on this host any more")
        trial = self.trial
        stored = await self._store(policy, self._enforcer.decisions.turn)
        self._confirm_in_memory(policy)
        if self.trial is not trial:
            raise StateError("this host was released while its disk took the generation")
        self.trial = self._proof = None
        self.in_force = InForce(asked.generation, asked.digest, "", asked.generation)
        told = about(Event.CONFIRMED, generation=asked.generation, digest=policy.policy_digest)
        log.info("generation %d is confirmed", asked.generation, extra=told)
        return Proof(proof.kernel_digest, proof.apply_us, proof.notes, stored)

    def _confirm_in_memory(self, policy: HostPolicy) -> None:
        if self._confirmed is None:
            self._folder.end_first_trial()
        if self._confirmed is None or self._confirmed.policy_digest != policy.policy_digest:
            self.seen.keep(PolicyIndex(policy), time.time())
        self._confirmed = policy

    async def _apply(self, new: NewPolicy) -> Applied:
        """Raises KernelError or StateError: what was in force stays in force."""
        self._ready()
        applied: Applied = await self._work(lambda: self._enforcer.put(new.policy), new.policy)
        self._ready_after()
        self.ended, self._doom = None, ""
        self.applied(applied)
        return applied

    def _ready_after(self) -> None:
        if held := self._folder.held:
            raise StateError(f"{held} while the policy was being applied")

    # What ends a trial

    def denied(self, denials: Sequence[Denial]) -> None:
        """A flow that passed before and is denied now ends the trial at the next `check`."""
        policy = self._enforcer.policy
        if self.trial is None or self.trial.accept_denials or policy is None or self._doom:
            return
        self._index = self._index or PolicyIndex(policy)
        broken = self.seen.broken(denials, self._index, self.trial.began_us, time.time())
        if broken is not None:
            self._doom = describe_broken(broken)

    async def check(self) -> None:
        """To be called every second: takes back what is on trial, where something speaks against it."""
        trial = self.trial
        if trial is None:
            return
        silent = time.monotonic() - self._heard
        if self._doom:
            await self._whole(self._take_back(trial, self._doom))
        elif silent > trial.silence:
            await self._whole(self._take_back(trial, f"nothing was heard from the controller for {silent:.0f} s"))

    async def leave(self) -> None:
        """The agent ends, and whoever would undo the trial with it. Raises KernelError: what is on trial stays then,
        until the next start."""
        if self.trial is not None:
            await self._whole(self._take_back(self.trial, "the agent was stopped"))

    async def _take_back(self, trial: Trial, reason: str) -> None:
        if self.trial is not trial:
            return
        self._doom = reason  # should the kernel refuse, `check` asks again
        policy, tried = self._confirmed, self._enforcer.policy
        if policy is None and self._closed and tried is not None:
            self._enforcer.put(closed_policy(tried.host))
            self.in_force, before = InForce(), "the host is closed but for the essentials: no generation reads"
        elif policy is None:
            self._enforcer.destroy()
            self._folder.end_first_trial()
            self.in_force, before = InForce(), "nothing is enforced, as before"
        else:
            applied: Applied = await self._work(lambda: self._enforcer.put(policy), policy)
            if self.trial is not trial:
                return  # released meanwhile
            number = policy.generation
            self.in_force = InForce(number, host_policy_digest(policy), "", number)
            before = f"generation {number} is in force again"
            self.committed()
            await self._store(policy, applied.turn)
        self.trial = self._staged = self._proof = None
        self._doom = ""
        self.ended = Ended(trial.generation, trial.digest, reason)
        told = about(Event.UNDONE, generation=trial.generation)
        log.warning("generation %d is taken back: %s", trial.generation, reason, extra=told)
        self._tell("state", f"generation {trial.generation} was on trial and is taken back: {reason}; {before}")
        self.trial_ended(self.ended)

    # The disk

    async def _store(self, policy: HostPolicy, turn: Turn) -> bool:
        """A disk that is full does not stop enforcement: it is told, and tried again."""
        try:
            await asyncio.to_thread(self._folder.write_generation, policy, turn)
            if policy is self._enforcer.policy:
                await asyncio.to_thread(write_targets, self._folder.path, policy)
        except StateError as error:
            if self._unstored is None:
                self._tell("state", str(error))
            self._unstored = (policy, self._enforcer.decisions.turn)
            return False
        now = self._enforcer.decisions.turn  # ids may have been given while the disk wrote
        self._unstored = None if now == turn else (policy, now)
        return True

    async def _targets(self, policy: HostPolicy) -> None:
        try:
            await asyncio.to_thread(write_targets, self._folder.path, policy)
        except StateError as error:
            self._tell("state", str(error))

    def turn_kept(self) -> None:
        """Newly given ids must outlive this process: `store_again` writes them."""
        if self._confirmed is not None and self._enforcer.policy is not None and self.in_force.generation:
            self._unstored = (self._confirmed, self._enforcer.decisions.turn)

    async def store_again(self) -> None:
        """To be called now and then: stores what could not be stored, and newly given ids."""
        async with self._lock:
            if self._unstored is not None and await self._store(*self._unstored):
                log.info("the generation is stored now")


def _proof(policy: HostPolicy, applied: Applied, *, stored: bool) -> Proof:
    return Proof(applied.kernel_digest, applied.apply_us, (*applied.notes, *target_notes(policy)), stored)


def _told(event: Event, policy: HostPolicy, applied: Applied) -> dict[str, dict[str, str]]:
    return about(event, generation=policy.generation, digest=policy.policy_digest, duration_us=applied.apply_us)


def _facts(policy: HostPolicy, applied: Applied) -> tuple[int, Turn, int]:
    return policy.generation, applied.turn, applied.apply_us
