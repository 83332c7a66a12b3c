"""The fleet in memory: the active policy, the hosts, what each must hold and what each has proved to hold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date

from segctl.model.inventory import Address, Host, Inventory
from segctl.model.policy import Policy
from segctl.policy.compile import Compiler
from segctl.policy.digest import host_policy_digest
from segctl.wire import host_policy_to_wire

from segctl_controller.clock import Clock
from segctl_controller.store.records import HostRecord, ProofRecord

DEBOUNCE = 0.05
"""Seconds that changes of membership are collected: a fleet that boots would else be compiled for every host."""
PACE = 16
"""Hosts compiled between two turns of the event loop."""
DATE_CHECK = 60.0
"""Seconds between looks at the date: rules expire at midnight UTC, also after the clock jumped."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Active:
    """The generation in force; number 0 is the empty policy before the first push, and is sent to nobody."""

    number: int = 0
    digest: str = ""
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True, slots=True)
class Desired:
    """What one host must hold. `wire` is its HostPolicy message, serialized once."""

    generation: int
    digest: str
    wire: bytes


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


class Fleet:
    """Single-threaded, on the event loop. `on_desired` is called with each host whose desired policy changed."""

    def __init__(self, clock: Clock, on_desired: Callable[[str], None]) -> None:
        self._clock = clock
        self._on_desired = on_desired
        self.active = Active()
        self.hosts: dict[str, HostRecord] = {}
        self.standings: dict[str, Standing] = {}
        self.desired: dict[str, Desired] = {}
        self.revision = 0
        self.inventory = Inventory()
        self.holders: dict[Address, str] = {}
        self._compiled_for: date | None = None
        self._changed = asyncio.Event()
        self._urgent = asyncio.Event()
        self._watchers: set[asyncio.Event] = set()

    def put_host(self, record: HostRecord) -> None:
        """A host that is new, or whose tags or addresses may have changed."""
        before = self.hosts.get(record.name)
        self.hosts[record.name] = record
        self.standings.setdefault(record.name, Standing())
        if before is None or (before.tags, before.addresses) != (record.tags, record.addresses):
            self._membership()

    def drop_host(self, name: str) -> None:
        self.hosts.pop(name, None)
        self.standings.pop(name, None)
        self.desired.pop(name, None)
        self._membership()

    def activate(self, active: Active) -> None:
        self.active = active
        self.revision += 1
        self._changed.set()
        self._urgent.set()

    def _membership(self) -> None:
        self.inventory = Inventory({n: Host(n, h.tags, h.addresses) for n, h in sorted(self.hosts.items())})
        self.holders = {address: n for n, h in self.hosts.items() for address in h.addresses}
        self.revision += 1
        self._changed.set()

    def standing(self, name: str) -> Standing:
        """Also for a host that was just removed while its stream still ends: that one is forgotten at once."""
        return self.standings.get(name) or Standing()

    def state(self, name: str) -> str:
        """in-sync, pending, refused, offline or never-connected."""
        standing, wanted = self.standing(name), self.desired.get(name)
        if not standing.connected:
            return "offline" if self.hosts[name].last_seen_us else "never-connected"
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

    async def run(self) -> None:
        """Keep what is desired in line with policy, membership and date, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(DATE_CHECK, self._clock.seconds_to_midnight())):
                    await self._changed.wait()
            if self._changed.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(DEBOUNCE):
                        await self._urgent.wait()
            elif self._clock.today() == self._compiled_for:
                continue
            self._changed.clear()
            self._urgent.clear()
            await self._compile()

    async def _compile(self) -> None:
        """A change that comes in between sets the event again, and the next round starts from it."""
        active, inventory, today = self.active, self.inventory, self._clock.today()
        self._compiled_for = today
        changed = 0
        if active.number:
            compiler = Compiler(active.policy, inventory, today)
            for position, name in enumerate(inventory.hosts):
                if name not in self.hosts:
                    continue
                host_policy = compiler.host_policy(name, active.number, active.digest)
                digest = host_policy_digest(host_policy)
                before = self.desired.get(name)
                if before is None or before.digest != digest:
                    wire = host_policy_to_wire(host_policy).SerializeToString()
                    self.desired[name] = Desired(active.number, digest, wire)
                    self._on_desired(name)
                    changed += 1
                if position % PACE == PACE - 1:
                    await asyncio.sleep(0)
        log.info("compiled generation=%d hosts=%d changed=%d", active.number, len(inventory.hosts), changed)
        self.notify()
