"""The fleet in memory: the active policy, the hosts, what each must hold and what each has proved to hold."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime

from segctl.logs import Event, about
from segctl.model.inventory import Address, Host, Inventory
from segctl.policy.decide import next_end
from segctl.policy.widen import may_move, moves

from segctl_controller.changes import Changes
from segctl_controller.clock import Clock
from segctl_controller.compilation import Compilation, paced
from segctl_controller.contest import Contest
from segctl_controller.rulebook import Rulebook
from segctl_controller.store.records import HostRecord, ProofRecord
from segctl_controller.trial import Active, Desired, Kind, Order, Phase, Trial

DEBOUNCE = 0.05
"""Seconds that changes of membership are collected: a fleet that boots would else be compiled for every host."""
CLOCK_CHECK = 60.0
"""Seconds between looks at the clock: rules end by it, also after it jumped."""
CLOCK_STEP = 0.01
"""Least seconds until the next look: the loop's clock and the wall clock do not tick together."""
OUT_OF_REACH = 100_000
"""Generations that a database may be behind its hosts."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The host's agent said no to the host policy `digest`."""

    digest: str
    errors: tuple[str, ...]


@dataclass(slots=True)
class Standing:
    """What is known of a host's agent right now."""

    connected: bool = False
    proof: ProofRecord | None = None
    refusal: Refusal | None = None
    staged: str = ""  # the digest of the host policy that it keeps ready
    stored: str = ""  # the digest of the host policy that its disk holds
    ended: tuple[int, str] = (0, "")  # the generation on trial that its agent took back by itself, and why
    holds: int = 0  # the newest generation on its disk, as it said when it connected
    notes: tuple[str, ...] = ()
    refused_addresses: tuple[tuple[Address, str], ...] = ()
    released: str = ""  # who took the rules off the host and when; nothing is enforced there
    contest: Contest = field(default_factory=Contest)
    elsewhere: str = ""  # the endpoint of the controller that it talks to; empty: this one


class Fleet:
    """Single-threaded, on the event loop. `on_desired` is called with each host whose desired policy changed."""

    def __init__(self, clock: Clock, on_desired: Callable[[str], None]) -> None:
        self._clock = clock
        self._on_desired = on_desired
        self.active = Active()
        self.trial: Trial | None = None
        self.withdrawn = ""  # why the trial before was undone
        self.hosts: dict[str, HostRecord] = {}
        self.standings: dict[str, Standing] = {}
        self.desired: dict[str, Desired] = {}
        self.rulebook = Rulebook()
        self.of_retired_ca: Callable[[str], bool] = lambda _: False  # a certificate, by its serial number
        self.revision = 0
        self.holders: dict[Address, str] = {}
        self._members: dict[str, Host] = {}
        self._inventory: Inventory | None = None
        self._next_end: datetime | None = None
        self._made: Compilation | None = None
        self._changed = asyncio.Event()
        self._urgent = asyncio.Event()
        self._watchers: set[Changes] = set()
        self.on_standing: Callable[[str], None] = _ignore
        self.on_trial: Callable[[], None] = lambda: None

    def put_host(self, record: HostRecord) -> None:
        """A host that is new, or whose tags or addresses may have changed."""
        before = self.hosts.get(record.name)
        self.hosts[record.name] = record
        self.standings.setdefault(record.name, Standing())
        if before is None or (before.tags, before.addresses) != (record.tags, record.addresses):
            self._move_addresses(record.name, before.addresses if before else (), record.addresses)
            self._membership(record.name)

    def drop_host(self, name: str) -> None:
        record = self.hosts.pop(name, None)
        self._move_addresses(name, record.addresses if record else (), ())
        self.standings.pop(name, None)
        self.desired.pop(name, None)
        if self.trial is not None:  # another machine that comes by this name takes no part
            self.trial.phases.pop(name, None)
            self.on_trial()
        self.rulebook.forget(name)
        self._membership(name)

    def activate(self, active: Active, made: Compilation | None = None) -> None:
        """`made` where it was compiled before."""
        self.active, self._made = active, made
        self.revision += 1
        self._at_once()

    def _at_once(self) -> None:
        self._changed.set()
        self._urgent.set()

    # A generation on trial

    async def begin(self, trial: Trial) -> None:
        """Returns when it is known what each host of the trial must hold; each is told to keep it ready."""
        with self.watch() as changes:
            self.join(trial)
            while not trial.drafts.keys() >= trial.phases.keys() & self.hosts.keys():
                changes.take()
                await changes.wait()

    def join(self, trial: Trial) -> None:
        """Like `begin`, for who does not wait: another controller runs it, and `step` follows that."""
        self.trial, self.withdrawn = trial, ""
        self._at_once()
        self.on_trial()

    def step(self, phases: Mapping[str, Phase]) -> None:
        """How far the hosts of the trial are to go now, in the order of phases; who is not named takes no part."""
        trial = self._running()
        for host in trial.phases.keys() - phases.keys():
            self.leave_out(host)
        for host, phase in phases.items():
            if phase is Phase.WIDE and host in trial.phases:
                self._widened(trial, host)
            self._to(trial, host, phase)

    async def widen(self, hosts: Iterable[str]) -> tuple[str, ...]:
        """Tell the hosts to permit what either generation permits; answers those for which that is a change."""
        trial = self._running()
        chosen, turn = [], time.monotonic()
        for host in tuple(hosts):
            if host in trial.phases and self._widened(trial, host):
                self._to(trial, host, Phase.WIDE)
                chosen.append(host)
            turn = await paced(turn)
        return tuple(chosen)

    def _widened(self, trial: Trial, host: str) -> bool:
        """Whether the host gains something by it. What it must hold then is made here, and followed by `_compile`."""
        old, new = self.desired.get(host), trial.drafts.get(host)
        if old is None or new is None:
            return False
        body = trial.widened(old, new)
        if body is None:
            trial.wides.pop(host, None)
            return False
        known = trial.wides.get(host)
        if known is None or known.body is not body:
            trial.wides[host] = Desired(host, new.generation, new.policy_digest, body)
        return True

    async def moves(self) -> bool:
        """Whether a permission of one host goes where another host gains one."""
        trial = self._running()
        if not await asyncio.to_thread(may_move, self.active.policy, trial.active.policy):
            return False
        before, after = {}, {}
        seen: set[tuple[int, int]] = set()
        for host, draft in trial.drafts.items():
            held = self.desired.get(host)
            # One of those that change in the same way stands for all of them.
            if held is not None and (key := (id(held.body), id(draft.body))) not in seen:
                seen.add(key)
                before[host], after[host] = held, draft
        return await asyncio.to_thread(_moves, before, after)

    def try_out(self, hosts: Iterable[str]) -> None:
        trial = self._running()
        for host in hosts:
            self._to(trial, host, Phase.TRIED)

    def leave_out(self, host: str) -> None:
        """It takes no part any more, and holds what is confirmed."""
        if self.trial is not None and self.trial.phases.pop(host, None) is not None:
            self._on_desired(host)
            self.on_trial()

    def takes_part(self, host: str) -> bool:
        return self.trial is not None and host in self.trial.phases

    def holds_nothing(self, host: str) -> bool:
        """Nothing was confirmed yet, and nothing is on trial with this host."""
        return not self.active.number and not self.takes_part(host)

    def confirm(self) -> None:
        """What is on trial is active: for the hosts that took no part, too."""
        trial, self.trial = self._running(), None
        tried = {h: d for h, d in trial.drafts.items() if trial.phases.get(h) is Phase.TRIED and h in self.hosts}
        self.desired.update(tried)
        if trial.made is not None:
            trial.made.whole = True  # those that took no part have not been told
        self.activate(trial.active, trial.made)
        for host in tried:
            self._on_desired(host)
        self.notify()

    def undo(self, why: str) -> None:
        """Every host of the trial holds what is confirmed."""
        trial, self.trial, self.withdrawn = self._running(), None, why
        for host in trial.phases:
            if host in self.hosts:
                self._on_desired(host)
        self.notify()

    def _running(self) -> Trial:
        if self.trial is None:
            raise RuntimeError("no generation is on trial")
        return self.trial

    def _to(self, trial: Trial, host: str, phase: Phase) -> None:
        if host in trial.phases and trial.phases[host] is not phase:
            trial.phases[host] = phase
            self._on_desired(host)
            self.on_trial()

    def orders(self, host: str) -> tuple[Order, ...]:
        """What the host is to do now, in this order; nothing before the first push, and until it is known what it must
        hold."""
        tried = self.trial.order(host) if self.trial is not None else None
        if tried is not None and tried.kind is Kind.TRY:
            return (tried,)
        desired = self.desired.get(host)
        hold = (Order(Kind.HOLD, desired),) if desired is not None else ()
        return (*hold, tried) if tried is not None else hold

    def wanted(self, host: str) -> Desired | None:
        """What the host's kernel must hold now."""
        tried = self.trial.order(host) if self.trial is not None else None
        return tried.desired if tried is not None and tried.kind is Kind.TRY else self.desired.get(host)

    def newest_held(self) -> int:
        """The highest generation that a connected host says its disk holds, or that it tried. Above the active one:
        this database is an older copy. An agent may say anything: what is out of reach does not count."""
        most = self.active.number + OUT_OF_REACH
        told = (n for s in self.standings.values() if s.connected for n in (s.holds, s.ended[0]))
        return max((n for n in told if n <= most), default=0)

    @property
    def inventory(self) -> Inventory:
        """Made when it is asked for: a fleet that boots changes it far more often than anyone looks."""
        if self._inventory is None:
            self._inventory = Inventory(dict(sorted(self._members.items())))
        return self._inventory

    def _move_addresses(self, name: str, before: tuple[Address, ...], after: tuple[Address, ...]) -> None:
        for address in before:
            if self.holders.get(address) == name:
                del self.holders[address]
        self.holders.update(dict.fromkeys(after, name))

    def _membership(self, name: str) -> None:
        self._inventory = None
        self.revision += 1
        record = self.hosts.get(name)
        host = Host(name, record.tags, record.addresses) if record is not None else None
        if host is not None:
            self._members[name] = host
        else:
            self._members.pop(name, None)
        for made in (self._made, self.trial.made if self.trial is not None else None):
            if made is not None:
                made.note(name, host)
        self._changed.set()

    def standing(self, name: str) -> Standing:
        """Also for a host that was just removed while its stream still ends: that one is forgotten at once."""
        return self.standings.get(name) or Standing()

    def state(self, name: str) -> str:
        """in-sync, pending, refused, released, offline or never-connected."""
        standing, wanted = self.standing(name), self.wanted(name)
        if not standing.connected:
            record = self.hosts.get(name)
            return "offline" if record is None or record.last_seen_us else "never-connected"
        if standing.released:
            return "released"
        if wanted is None:
            return "pending" if self.active.number else "in-sync"
        if standing.proof is not None and standing.proof.digest == wanted.digest:
            return "in-sync"
        if standing.refusal is not None and standing.refusal.digest == wanted.digest:
            return "refused"
        return "pending"

    def notify(self, host: str = "") -> None:
        """Tell those who watch that a standing changed. `host`: the one of a host that is, or was, connected here."""
        if host:
            self.on_standing(host)
        for watcher in self._watchers:
            watcher.note(host)

    @contextmanager
    def watch(self) -> Iterator[Changes]:
        changes = Changes()
        self._watchers.add(changes)
        try:
            yield changes
        finally:
            self._watchers.discard(changes)

    async def compiled(self, name: str) -> None:
        """Wait until it is known what the host must hold: a controller that starts hears of it before."""
        with self.watch() as changes:
            while self.active.number and name in self.hosts and name not in self.desired:
                changes.take()
                await changes.wait()

    async def run(self) -> None:
        """Keep what is desired in line with policy, membership and clock, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience()):
                    await self._changed.wait()
            if self._changed.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(DEBOUNCE):
                        await self._urgent.wait()
            elif self._end() == self._next_end:
                continue
            self._changed.clear()
            self._urgent.clear()
            await self._compile()

    def _patience(self) -> float:
        """Seconds until the next rule ends, or until a clock that jumped is noticed."""
        if self._next_end is None:
            return CLOCK_CHECK
        return min(CLOCK_CHECK, max(CLOCK_STEP, self._clock.seconds_until(self._next_end)))

    def _end(self) -> datetime | None:
        """When the next rule ends."""
        now = self._clock.now()
        policies = [self.active.policy, *([self.trial.active.policy] if self.trial is not None else ())]
        return min((end for p in policies if (end := next_end(p, now)) is not None), default=None)

    async def _compile(self) -> None:
        """A change that comes in between sets the event again, and the next round starts from it."""
        trial, end = self.trial, self._end()
        if end != self._next_end:
            self._next_end, self._made = end, None
            if trial is not None:
                trial.made = None
        if self.active.number:
            if self._made is None:
                self._made = self._compilation(self.active)
            await self._demand(self._made, self.desired, self.hosts)
        if trial is not None and trial is self.trial:
            if trial.made is None:
                trial.made = self._compilation(trial.active)
            await self._demand(trial.made, trial.drafts, trial.phases)
            turn = time.monotonic()
            for host in [h for h, phase in trial.phases.items() if phase is Phase.WIDE]:
                if trial.phases.get(host) is Phase.WIDE and self._widened(trial, host):
                    self._on_desired(host)
                turn = await paced(turn)
        self.notify()

    def _compilation(self, active: Active) -> Compilation:
        return Compilation(active, self.inventory.hosts, self._clock.now())

    async def _demand(self, made: Compilation, into: dict[str, Desired], hosts: Container[str]) -> None:
        """Tell each of `hosts` whose host policy is another one than in `into`."""
        changed, told = await made.settle(), 0
        # Who was enrolled anew, with the tags it had, is no change of any rule and yet was told nothing.
        names, made.whole = (self.hosts if made.whole else {*changed, *(self.hosts.keys() - into.keys())}), False
        turn = time.monotonic()
        for name in [n for n in names if n in hosts]:
            if made is not self._made and (self.trial is None or made is not self.trial.made):
                return  # confirmed or undone meanwhile: what it was compiled for holds no more
            body, before = made.body(name), into.get(name)
            if body is None or name not in hosts:
                continue  # removed, or another machine by now: the next round knows
            desired = Desired(name, made.active.number, made.active.digest, body)
            if before is None or before.body is not body or before.generation != desired.generation:
                into[name] = desired
                if before is None or before.digest != desired.digest:
                    self.rulebook.note(name, body.rules.names)
                    self._on_desired(name)
                    told += 1
            turn = await paced(turn)
        about_it = about(Event.COMPILED, generation=made.active.number)
        log.info(
            "compiled generation=%d hosts=%d changed=%d", made.active.number, len(self.hosts), told, extra=about_it
        )


def _ignore(_host: str) -> None: ...


def _moves(old: Mapping[str, Desired], new: Mapping[str, Desired]) -> bool:
    return moves({h: d.policy for h, d in old.items()}, {h: d.policy for h, d in new.items()})
