"""One generation's way into force: staged on every host, tried wave by wave, watched, and confirmed or undone.

    stage all ─▶ widen all, where a permission moves ─▶ for each wave: try, prove, watch ─▶ stored: confirmed
                           └──────────── any refusal, silence, or trial taken back ─▶ stored: undone, all return

It runs in the controller, whoever watches it. Hosts that are offline, released or left out take no part: they hold what
is confirmed, before and after. What becomes of it is stored before any host is told, so a controller that dies on the
way comes back with the generation before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from itertools import islice, takewhile

from segctl.errors import SegctlError
from segctl.logs import Event, about
from segctl.model.policy import Policy
from segctl.proto.v1 import admin_pb2 as pb

from segctl_controller.compilation import paced
from segctl_controller.fleet import Fleet
from segctl_controller.hostproof import host_proof, host_state, push_done
from segctl_controller.store.records import GenerationRecord, GenerationState
from segctl_controller.trial import Active, Phase, Trial
from segctl_controller.views import generation_view
from segctl_controller.way import Way

TOGETHER = 0.005
"""Seconds in which the answers of many hosts are waited for before all of them are looked at."""
MOST_TOGETHER = 500
"""Hosts in one message to an operator."""
CONFIRM_SECONDS = 5.0
"""How long a push waits for the hosts' disks, and for those that took no part: they follow in any case."""
log = logging.getLogger(__name__)

Settle = Callable[[GenerationState, str], Awaitable[GenerationRecord]]


class UndoneError(SegctlError):
    """Why a generation is not confirmed."""


class Rollout:
    """`await run()` once; any number of callers may `follow` it, before, meanwhile and after."""

    def __init__(self, fleet: Fleet, stored: GenerationRecord, policy: Policy, way: Way, settle: Settle) -> None:
        self.stored = stored
        self.phase = pb.PushPhase(name="staging")
        self._fleet, self._policy, self._way, self._settle = fleet, policy, way, settle
        self._steps: list[pb.PushProgress] = []
        self._more = asyncio.Event()
        self._over = False
        self._stopped = ""
        self._told: dict[str, str] = {}
        self._tried: set[str] = set()
        self._began = asyncio.get_running_loop().time()

    @property
    def over(self) -> bool:
        return self._over

    def stop(self, why: str) -> None:
        """Undo it, unless it is confirmed already."""
        self._stopped = self._stopped or why
        self._fleet.notify()

    async def follow(self, *, together: bool = False) -> AsyncIterator[pb.PushProgress]:
        """Every step from the first to the last. Who stops reading changes nothing. `together`: hosts that follow each
        other come in one message: a thousand of them are as much work as the fleet's own messages."""
        at = 0
        while True:
            more = self._more
            while at < len(self._steps):
                step, at = self._steps[at], at + 1
                if together and step.HasField("host"):
                    hosts = [step.host, *self._hosts_from(at)]
                    step, at = pb.PushProgress(hosts=pb.HostProofs(proofs=hosts)), at + len(hosts) - 1
                yield step
            if self._over:
                return
            await more.wait()

    def _hosts_from(self, at: int) -> list[pb.HostProof]:
        following = islice(self._steps, at, at + MOST_TOGETHER)
        return [step.host for step in takewhile(lambda step: step.HasField("host"), following)]

    async def run(self) -> None:
        """Raises nothing but what cannot be stored."""
        self._tell(pb.PushProgress(stored=generation_view(self.stored, self._fleet.active.number)))
        try:
            await self._try()
            while not all(map(self._proving, self._tried)):
                await self._kept()  # looking took several turns of the loop: who was first may have changed
            self._check()
            self.stored = await self._settle(GenerationState.CONFIRMED, "")
            if self.stored.state is not GenerationState.CONFIRMED:
                raise UndoneError(self.stored.why)
        except SegctlError as error:
            await self._undo(str(error))
        except Exception as error:
            log.exception("generation %d", self.stored.number)
            await self._undo(f"the controller failed: {error!r}; see its log")
            raise
        else:
            await self._confirm()
        finally:
            self._over = True
            self._wake()

    @property
    def proven(self) -> int:
        """Hosts whose kernel holds it now."""
        return sum(self._state_of(host) == "proven" for host in self._tried)

    # Forward

    async def _try(self) -> None:
        fleet, way = self._fleet, self._way
        members = [h for h in sorted(fleet.hosts) if h not in way.without and self._takes_part(h)]
        waves = self._waves(members)
        active = Active(self.stored.number, self.stored.digest, self._policy)
        self._enter("staging", hosts=len(members))
        await fleet.begin(Trial(active, dict.fromkeys(members, Phase.STAGED), way.accept_denials))
        await self._until(members, self._staging)
        if await fleet.moves():
            self._leave_out_gone(members)
            wide = await fleet.widen(h for h in members if self._in(h))
            if wide:
                self._enter("widening", hosts=len(wide))
                self._tried.update(wide)
                await self._until(wide, self._proving)
        for number, wave in enumerate(waves, 1):
            await self._wave(number, len(waves), wave)

    async def _wave(self, number: int, of: int, wave: Sequence[str]) -> None:
        """Those that went offline since they were staged are left out: they hold what is confirmed."""
        fleet, way = self._fleet, self._way
        if number > 1 and way.pause:
            self._enter("pausing", number, of, seconds=way.pause)
            await self._pass(way.pause)
            await self._kept()
        self._leave_out_gone(wave)
        hosts = [h for h in wave if self._in(h)]
        await self._until([h for h in hosts if h not in self._tried], self._staging)
        hosts = [h for h in wave if self._in(h)]
        self._enter("activating", number, of, hosts=len(hosts))
        self._tried.update(hosts)
        self._told.clear()
        fleet.try_out(hosts)
        await self._until(hosts, self._proving)
        if way.watch and hosts:
            self._enter("watching", number, of, hosts=len(self._tried), seconds=way.watch)
            await self._pass(way.watch)
        await self._kept()

    def _leave_out_gone(self, hosts: Iterable[str]) -> None:
        for host in hosts:
            if host not in self._tried and not self._takes_part(host):
                self._fleet.leave_out(host)

    async def _kept(self) -> None:
        """All hosts of this wave and of those before still hold it."""
        await self._until(sorted(self._tried), self._proving, quiet=True)

    def _waves(self, members: Sequence[str]) -> list[list[str]]:
        """The canaries, then the others in as many waves as were asked for. Raises UndoneError without a canary."""
        way, hosts = self._way, self._fleet.hosts
        canaries = [h for h in members if way.canary and way.canary.items() <= dict(hosts[h].tags.pairs).items()]
        if way.canary and not canaries:
            tags = ", ".join(f"{k}={v}" for k, v in sorted(way.canary.items()))
            raise UndoneError(f"no connected host has the tags of the canary ({tags})")
        others = [h for h in members if h not in canaries]
        size, rest = divmod(len(others), way.waves)
        parts, at = [], 0
        for number in range(way.waves):
            end = at + size + (number < rest)
            parts.append(others[at:end])
            at = end
        return [wave for wave in (canaries, *parts) if wave] or [[]]

    # What hosts say

    def _takes_part(self, host: str) -> bool:
        standing = self._fleet.standing(host)
        return host in self._fleet.hosts and standing.connected and not standing.released

    def _in(self, host: str) -> bool:
        return self._fleet.trial is not None and host in self._fleet.trial.phases

    def _staging(self, host: str) -> bool:
        """Whether the host is ready, or takes no part."""
        trial, standing = self._fleet.trial, self._fleet.standing(host)
        if trial is None or host not in trial.phases:
            return True
        if not self._takes_part(host):
            self._fleet.leave_out(host)
            return True
        draft = trial.drafts.get(host)
        return draft is not None and standing.staged == draft.digest

    def _proving(self, host: str) -> bool:
        """Whether the host's kernel holds what it must. One that went away must come back."""
        if not self._in(host):
            return True  # removed, and maybe enrolled anew
        return self._state_of(host) == "proven"

    def _state_of(self, host: str) -> str:
        return host_state(self._fleet, host)

    def _check(self, news: Iterable[str] | None = None) -> None:
        """Raises UndoneError for whatever speaks against going on. `news`: the hosts that may; None: any."""
        if self._stopped:
            raise UndoneError(self._stopped)
        trial = self._fleet.trial
        if trial is None:
            return
        for host in trial.phases if news is None else [h for h in news if h in trial.phases]:
            standing = self._fleet.standing(host)
            if standing.ended[0] == self.stored.number:
                raise UndoneError(f"{host} took it back: {standing.ended[1]}")
            if standing.released and host not in self._tried:
                continue  # it is left out
            if standing.released:
                raise UndoneError(f"{host} was released while it was on trial: {standing.released}")
            if standing.refusal is None:
                continue
            draft, wide = trial.drafts.get(host), trial.wides.get(host)
            if standing.refusal.digest in {d.digest for d in (draft, wide) if d is not None}:
                raise UndoneError(f"{host} refused it: {standing.refusal.errors[0]}")

    # Waiting

    async def _until(self, hosts: Iterable[str], done: Callable[[str], bool], *, quiet: bool = False) -> None:
        """Raises UndoneError when something speaks against it, or when it takes too long."""
        left, loop = dict.fromkeys(hosts), asyncio.get_running_loop()
        deadline = loop.time() + self._way.wait
        with self._fleet.watch() as changes:
            while True:
                news = changes.take()
                self._check(news)
                turn = time.monotonic()
                for host in tuple(_among(left, news)):
                    if done(host):
                        del left[host]
                        if not quiet:
                            self._tell_host(host)
                    turn = await paced(turn)
                if not left:
                    return
                try:
                    async with asyncio.timeout_at(deadline):
                        await changes.wait()
                except TimeoutError:
                    names = ", ".join([*left][:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
                    what = "was not proven" if self._tried else "was not ready"
                    gone = [h for h in left if not self._fleet.standing(h).connected]
                    why = "; after the change it did not come back to the controller" if gone else ""
                    raise UndoneError(f"{names} {what} within {self._way.wait:g} s{why}") from None
                await asyncio.sleep(TOGETHER)

    async def _pass(self, seconds: float) -> None:
        """Wait, and look out for what speaks against it."""
        deadline = asyncio.get_running_loop().time() + seconds
        with self._fleet.watch() as changes:
            while True:
                self._check(changes.take())
                try:
                    async with asyncio.timeout_at(deadline):
                        await changes.wait()
                except TimeoutError:
                    return

    async def _settled(self, hosts: Iterable[str], done: Callable[[str], bool], seconds: float) -> None:
        """Wait for the hosts, and no longer than that."""
        left, deadline = dict.fromkeys(hosts), asyncio.get_running_loop().time() + seconds
        with self._fleet.watch() as changes:
            while True:
                turn = time.monotonic()
                for host in tuple(_among(left, changes.take())):
                    if done(host):
                        del left[host]
                    turn = await paced(turn)
                if not left:
                    return
                try:
                    async with asyncio.timeout_at(deadline):
                        await changes.wait()
                except TimeoutError:
                    return

    # The end

    async def _confirm(self) -> None:
        fleet, members = self._fleet, sorted(self._tried)
        self._enter("confirming", hosts=len(members))
        fleet.confirm()
        told = about(Event.CONFIRMED, generation=self.stored.number, actor=self.stored.author)
        log.info("confirmed generation=%d hosts=%d", self.stored.number, len(members), extra=told)
        others = [h for h in fleet.hosts if h not in self._tried]
        await self._settled([*members, *others], self._followed, CONFIRM_SECONDS)
        turn = time.monotonic()
        for host in sorted(fleet.hosts):
            if host not in self._tried or self._state_of(host) != "proven":
                self._tell_host(host)
            turn = await paced(turn)
        self._finish()

    def _followed(self, host: str) -> bool:
        standing, wanted = self._fleet.standing(host), self._fleet.wanted(host)
        if host not in self._fleet.hosts or not standing.connected or standing.released:
            return True
        if standing.refusal is not None and wanted is not None and standing.refusal.digest == wanted.digest:
            return True
        if wanted is None or wanted.generation < self.stored.number:
            return False  # it is not compiled yet
        return standing.stored == wanted.digest

    async def _undo(self, why: str) -> None:
        fleet = self._fleet
        told = about(Event.UNDONE, generation=self.stored.number, actor=self.stored.author)
        log.warning("undone generation=%d: %s", self.stored.number, why, extra=told)
        try:
            self.stored = await self._settle(GenerationState.UNDONE, why)
        except Exception:  # whatever it was: no host may stay on trial for it
            log.exception("generation %d is undone, which could not be stored", self.stored.number)
        if self.stored.state is GenerationState.CONFIRMED:  # stored, though the store had said that it failed
            await self._confirm()
            return
        if fleet.trial is not None:
            tried = sorted(h for h in self._tried if h in fleet.hosts)
            self._enter("undoing", hosts=len(tried))
            fleet.undo(why)
            await self._settled(tried, self._returned, self._way.wait)
            for host in tried:
                self._tell_host(host, returned=True)
        self._finish(why)

    def _returned(self, host: str) -> bool:
        """Whether the host holds again what it held before. Before the first generation that was nothing."""
        if not self._fleet.active.number and self._fleet.standing(host).connected:
            return self._fleet.standing(host).ended[0] == self.stored.number
        return host not in self._fleet.hosts or self._state_of(host) != "waiting"

    def _finish(self, undone: str = "") -> None:
        done = push_done(self._fleet, undone)
        self._tell(pb.PushProgress(done=done))

    # What is told

    def _enter(self, name: str, wave: int = 0, waves: int = 0, hosts: int = 0, seconds: float = 0) -> None:
        self.phase = pb.PushPhase(name=name, wave=wave, waves=waves, hosts=hosts, seconds=round(seconds))
        self._tell(pb.PushProgress(phase=self.phase))
        self._fleet.on_trial()

    def _tell_host(self, host: str, *, returned: bool = False) -> None:
        if host not in self._fleet.hosts:
            return
        proof = host_proof(self._fleet, host)
        if returned and proof.state in ("proven", "waiting") and self._returned(host):
            proof.state = "returned"
        elif self._phase_is_staging(host) and proof.state in ("proven", "waiting"):
            proof.state = "staged"
        proof.after_us = int((asyncio.get_running_loop().time() - self._began) * 1e6)
        if self._told.get(host) != proof.state:
            self._told[host] = proof.state
            self._tell(pb.PushProgress(host=proof))

    def _phase_is_staging(self, host: str) -> bool:
        trial = self._fleet.trial
        return trial is not None and trial.phases.get(host) is Phase.STAGED

    def _tell(self, step: pb.PushProgress) -> None:
        self._steps.append(step)
        self._wake()

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()


def _among(left: Collection[str], news: Iterable[str] | None) -> Iterable[str]:
    """Those of `left` that may have changed, by name."""
    return left if news is None else sorted(host for host in news if host in left)
