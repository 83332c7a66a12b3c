"""The fleet in memory: the active policy, the hosts, what each must hold and what each has proved to hold."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime

from segctl.model.hostpolicy import HostPolicy
from segctl.model.inventory import Address, Host, Inventory
from segctl.model.policy import Policy
from segctl.policy.compile import Compiler
from segctl.policy.decide import next_end
from segctl.wire import host_policy_to_wire

from segctl_controller.clock import Clock
from segctl_controller.contest import Contest
from segctl_controller.rulebook import Rulebook
from segctl_controller.store.records import HostRecord, ProofRecord

DEBOUNCE = 0.05
"""Seconds that changes of membership are collected: a fleet that boots would else be compiled for every host."""
PACE = 0.005
"""Seconds of compiling between two turns of the event loop: heartbeats and pushes go on meanwhile."""
CLOCK_CHECK = 60.0
"""Seconds between looks at the clock: rules end by it, also after it jumped."""
CLOCK_STEP = 0.01
"""Least seconds until the next look: the loop's clock and the wall clock do not tick together."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Active:
    """The generation in force; number 0 is the empty policy before the first push, and is sent to nobody."""

    number: int = 0
    digest: str = ""
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True, slots=True)
class Desired:
    """What one host must hold. `wire` is its HostPolicy message, serialized once; `policy` the value it was made of."""

    generation: int
    digest: str
    wire: bytes
    policy: HostPolicy | None = None


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
    notes: tuple[str, ...] = ()
    refused_addresses: tuple[tuple[Address, str], ...] = ()
    released: str = ""  # who took the rules off the host and when; nothing is enforced there
    contest: Contest = field(default_factory=Contest)


class Fleet:
    """Single-threaded, on the event loop. `on_desired` is called with each host whose desired policy changed."""

    def __init__(self, clock: Clock, on_desired: Callable[[str], None]) -> None:
        self._clock = clock
        self._on_desired = on_desired
        self.active = Active()
        self.hosts: dict[str, HostRecord] = {}
        self.standings: dict[str, Standing] = {}
        self.desired: dict[str, Desired] = {}
        self.rulebook = Rulebook()
        self.revision = 0
        self.holders: dict[Address, str] = {}
        self._inventory: Inventory | None = None
        self._next_end: datetime | None = None
        self._changed = asyncio.Event()
        self._urgent = asyncio.Event()
        self._watchers: set[asyncio.Event] = set()

    def put_host(self, record: HostRecord) -> None:
        """A host that is new, or whose tags or addresses may have changed."""
        before = self.hosts.get(record.name)
        self.hosts[record.name] = record
        self.standings.setdefault(record.name, Standing())
        if before is None or (before.tags, before.addresses) != (record.tags, record.addresses):
            self._move_addresses(record.name, before.addresses if before else (), record.addresses)
            self._membership()

    def drop_host(self, name: str) -> None:
        record = self.hosts.pop(name, None)
        self._move_addresses(name, record.addresses if record else (), ())
        self.standings.pop(name, None)
        self.desired.pop(name, None)
        self.rulebook.forget(name)
        self._membership()

    def activate(self, active: Active) -> None:
        self.active = active
        self.revision += 1
        self._changed.set()
        self._urgent.set()

    @property
    def inventory(self) -> Inventory:
        """Made when it is asked for: a fleet that boots changes it far more often than anyone looks."""
        if self._inventory is None:
            self._inventory = Inventory({n: Host(n, h.tags, h.addresses) for n, h in sorted(self.hosts.items())})
        return self._inventory

    def _move_addresses(self, name: str, before: tuple[Address, ...], after: tuple[Address, ...]) -> None:
        for address in before:
            if self.holders.get(address) == name:
                del self.holders[address]
        self.holders.update(dict.fromkeys(after, name))

    def _membership(self) -> None:
        self._inventory = None
        self.revision += 1
        self._changed.set()

    def standing(self, name: str) -> Standing:
        """Also for a host that was just removed while its stream still ends: that one is forgotten at once."""
        return self.standings.get(name) or Standing()

    def state(self, name: str) -> str:
        """in-sync, pending, refused, released, offline or never-connected."""
        standing, wanted = self.standing(name), self.desired.get(name)
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

    def notify(self) -> None:
        """Tell those who watch that a standing changed."""
        for watcher in self._watchers:
            watcher.set()

    @contextmanager
    def watch(self) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        self._watchers.add(event)
        try:
            yield event
        finally:
            self._watchers.discard(event)

    async def compiled(self, name: str) -> None:
        """Wait until it is known what the host must hold: a controller that starts hears of it before."""
        with self.watch() as changed:
            while self.active.number and name in self.hosts and name not in self.desired:
                changed.clear()
                await changed.wait()

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
            elif next_end(self.active.policy, self._clock.now()) == self._next_end:
                continue
            self._changed.clear()
            self._urgent.clear()
            await self._compile()

    def _patience(self) -> float:
        """Seconds until the next rule ends, or until a clock that jumped is noticed."""
        if self._next_end is None:
            return CLOCK_CHECK
        return min(CLOCK_CHECK, max(CLOCK_STEP, self._clock.seconds_until(self._next_end)))

    async def _compile(self) -> None:
        """A change that comes in between sets the event again, and the next round starts from it."""
        active, inventory, now = self.active, self.inventory, self._clock.now()
        self._next_end = next_end(active.policy, now)
        changed = 0
        if active.number:
            compiler = Compiler(active.policy, inventory, now)
            turn = time.monotonic()
            for name in inventory.hosts:
                record = self.hosts.get(name)
                if record is None or record.tags != inventory.hosts[name].tags:
                    continue  # removed, or another machine by now: the next round knows
                host_policy = compiler.host_policy(name, active.number, active.digest)
                before = self.desired.get(name)
                # Values are compared, not digests: a digest of a thousand addresses costs far more than a look.
                if before is None or before.policy != host_policy:
                    wire = host_policy_to_wire(host_policy)
                    self.desired[name] = Desired(active.number, wire.digest, wire.SerializeToString(), host_policy)
                    self.rulebook.note(host_policy)
                    self._on_desired(name)
                    changed += 1
                if time.monotonic() - turn > PACE:
                    await asyncio.sleep(0)
                    turn = time.monotonic()
        log.info("compiled generation=%d hosts=%d changed=%d", active.number, len(inventory.hosts), changed)
        self.notify()
