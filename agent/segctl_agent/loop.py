"""The running agent: wires watchers, enforcer, denials, reports and session, and keeps the clockwork.

    cgroups, addresses, names ──▶ Agent ──▶ Enforcer ──▶ kernel ──▶ NftWatch ──▶ Agent.heal
    NFLOG, conntrack, counters ──▶ Observers ──▶ ReportQueue ──▶ Session ◀──▶ Agent.put

Order at start: facts, then the last good generation, then READY, and only then the network.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from segctl import __version__
from segctl.errors import KernelError, SegctlError, StateError
from segctl.logs import Event, EventCounter, about
from segctl.statuspage import Where
from segctl.systemd import Notifier

from segctl_agent.agent import Agent
from segctl_agent.credentials import Identity
from segctl_agent.endpoints import describe, endpoints, load_remembered, look_up, remember, resolve_endpoints
from segctl_agent.enforcer import Enforcer
from segctl_agent.facts.addresses import AddressWatcher, known_addresses
from segctl_agent.facts.cgroups import CgroupWatcher, find_cgroup2_root
from segctl_agent.facts.conntrack import ConntrackGauge
from segctl_agent.facts.containerstate import ContainerReader
from segctl_agent.facts.containerwatch import ContainerWatcher
from segctl_agent.facts.listeners import read_listeners
from segctl_agent.facts.users import resolve_users
from segctl_agent.facts.values import Address
from segctl_agent.flows.carried import carried_ids
from segctl_agent.monitor import Monitor
from segctl_agent.neighbours import Neighbours
from segctl_agent.nft.fallback import Tell
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.others import read_others
from segctl_agent.nft.ruleset import TABLE
from segctl_agent.nft.watch import NftWatch, TamperNotice
from segctl_agent.observers import HitKeeper, Observers
from segctl_agent.release import Told
from segctl_agent.reload import Reload
from segctl_agent.render import MarkLayout
from segctl_agent.renewal import Renewal
from segctl_agent.reports import ReportQueue
from segctl_agent.session import Session
from segctl_agent.state import StateFolder
from segctl_agent.tell_audit import tell_audit

log = logging.getLogger(__name__)

HOLD_SECONDS = 1.0
TRIAL_SECONDS = 0.5
CONTAINERS_SECONDS = 10.0
DRIFT_SECONDS = 10.0
LISTENERS_SECONDS = 10.0
STATUS_SECONDS = 5.0
NAMES_SECONDS = 60.0
RENEWAL_SECONDS = 5.0
_MOST_FINDINGS = 100


class Loop:
    """One agent process. `run` returns its exit code."""

    def __init__(
        self,
        folder: StateFolder,
        identity: Identity,
        notifier: Notifier,
        layout: MarkLayout,
        open_kernel: Callable[[Tell], NetlinkKernel],
        metrics: Where | None = None,
    ) -> None:
        """To be made in the loop that runs it. `open_kernel` is given what tells an event `kernel`. `metrics` is where
        the pages for monitoring are, None: nowhere."""
        self._folder, self._identity, self._notifier = folder, identity, notifier
        self._reports = ReportQueue()
        loop = asyncio.get_running_loop()
        # A large policy is applied in a thread: what is told there waits for the loop.
        self._kernel = open_kernel(lambda told: loop.call_soon_threadsafe(self._refused, told))
        hits = self._hits = HitKeeper(folder, identity.enrolment_id)
        carried = partial(carried_ids, layout)
        self._enforcer = Enforcer(
            self._kernel, resolve_users, os.geteuid(), layout, in_use=carried, keep_hits=hits.look
        )
        self._agent = Agent(folder, identity.host, self._enforcer, self._reports)
        self._cgroup_root = find_cgroup2_root()
        self._cgroups = CgroupWatcher(self._cgroup_root)
        self._observers = Observers(self._agent, self._cgroups, hits)
        self._containers: ContainerWatcher | None = None
        self._addresses = AddressWatcher()
        self._resolved: dict[str, list[str]] = {}
        self._neighbours = Neighbours(read_others, self._agent.tell, layout.mask)
        self._conntrack = ConntrackGauge()
        self._metrics, self._monitored = metrics, "off"
        self._monitor: Monitor | None = None
        self._events = EventCounter()
        logging.getLogger().addHandler(self._events)
        self._stop = asyncio.Event()
        self._reload = Reload(notifier, lambda: self._agent.status, self._reload_steps())
        self._failure: SegctlError | None = None

    async def run(self) -> int:
        """Until SIGTERM, SIGINT or a failure of a watcher. The rules stay in force when it ends. Raises SegctlError."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._callback_failed)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.request)
        watch = NftWatch(self._ruleset_changed, own_pid=os.getpid(), own_port=self._kernel.port)
        self._containers = ContainerWatcher(
            ContainerReader(self._cgroup_root),
            loop,
            self._agent.containers_changed,
            lambda problem: self._agent.tell("facts", problem),
        )
        self._cgroups.start(loop, self._cgroups_changed)
        self._agent.addresses_changed(known_addresses(self._addresses))
        self._resolved = resolve_endpoints(self._identity.channel, load_remembered(self._folder.path), lambda _: ())
        self._agent.controllers_changed(endpoints(self._resolved))
        self._agent.start()
        self._guard_table()
        watch.start(loop)
        self._agent.read_notices = watch.read
        self._notifier.ready(self._agent.status)
        log.info(
            "ready: %s", self._agent.status, extra=about(Event.READY, generation=self._agent.in_force().generation)
        )
        self._addresses.start(loop, self._addresses_changed)
        self._observers.start(loop)
        session = self._session()
        self._start_monitor(session)
        gc.collect()
        gc.freeze()  # what start-up made lives on: the collector need not walk it again
        tasks = [
            asyncio.create_task(session.run()),
            asyncio.create_task(self._refresh_names()),
            asyncio.create_task(self._observers.run()),
            asyncio.create_task(self._neighbours.run()),
            *([asyncio.create_task(self._monitor.run())] if self._monitor is not None else []),
            asyncio.create_task(self._reload.run()),
            *(asyncio.create_task(_every(seconds, work)) for seconds, work in self._clockwork(session)),
        ]
        stopping = asyncio.create_task(self._stop.wait())
        try:
            done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._notifier.stopping(f"stopping: {self._left_behind()}")
            for task in (stopping, *tasks):
                task.cancel()
            await asyncio.gather(stopping, *tasks, return_exceptions=True)
            await self._leave_trial()
            if self._monitor is not None:
                await self._monitor.close()
            logging.getLogger().removeHandler(self._events)
            self._close(loop, watch)
        for task in done:
            if task is not stopping and not task.cancelled() and (error := task.exception()) is not None:
                raise error
        if self._failure is not None:
            raise self._failure
        log.info("stopped: %s", self._left_behind(), extra=about(Event.STOPPED))
        return 0

    async def _leave_trial(self) -> None:
        try:
            await self._agent.generations.leave()
        except (KernelError, StateError) as error:
            log.error("what is on trial stays in force until the next start: %s", error)

    def _left_behind(self) -> str:
        """What becomes of enforcement while no agent runs."""
        if self._agent.held:
            return f"{self._agent.held}, and nothing is enforced"
        if self._enforcer.policy is None:
            return "there was no policy, and nothing is enforced"
        return (
            "the rules stay in force. Units that start from now on are closed where this host enforces, until an agent "
            "runs again; `segctl-agent release` opens the host"
        )

    def _cgroups_changed(self, added: Mapping[str, int], removed: Mapping[str, int]) -> None:
        self._agent.cgroups_changed(added, removed)
        if self._containers is not None:
            self._containers.cgroups_changed(added, removed)

    def _addresses_changed(self, addresses: frozenset[Address]) -> None:
        """A network of containers that is attached or detached shows as a change of this host's addresses too."""
        self._agent.addresses_changed(addresses)
        if self._containers is not None:
            self._containers.refresh()

    async def _refresh_containers(self) -> None:
        if self._containers is not None:
            self._containers.refresh()

    def _refused(self, told: str) -> None:
        self._agent.tell("kernel", told)

    def _ruleset_changed(self, notice: TamperNotice) -> None:
        self._agent.changed_by(notice)
        if notice.tables != {TABLE}:
            self._neighbours.changed_by(notice)

    def _guard_table(self) -> None:
        """The table our own where the kernel lets us; what hinders that is told, and the table watched."""
        try:
            wanted = self._enforcer.wanted
            if wanted is not None and self._kernel.take_over(wanted, self._hits.look):
                log.info("a table without an owner was replaced by our own, without a gap")
        except KernelError as error:
            log.warning("the table cannot be taken over: %s", error)
        self._look_at_guard()

    def _look_at_guard(self) -> None:
        """A table without an owner that somebody deletes is made anew with one."""
        guard, why = self._kernel.guard()
        if guard != self._agent.table_guard:
            log.info("the table is %s: %s", guard, why or "the kernel refuses others' changes")
            self._agent.table_guard = guard
            self._agent.facts_changed()

    def _session(self) -> Session:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        session = Session(self._identity, self._agent, self._reports, boot_id)
        told = Told(self._folder.path)
        session.beside.append(lambda stub: tell_audit(stub, told))
        self._renewal = Renewal(self._folder.path, self._identity, session.use, partial(self._agent.tell, "state"))
        session.renewal_wanted = self._renewal.hasten
        self._agent.facts_changed = session.facts_changed
        self._agent.in_force_changed = session.in_force_changed
        self._agent.generations.trial_ended = session.trial_ended
        self._agent.report_waiting = session.reports_waiting.set
        return session

    def _start_monitor(self, session: Session) -> None:
        """A port that is taken is no reason to enforce less."""
        if self._metrics is None:
            return
        monitor = Monitor(
            self._agent,
            session,
            self._events,
            lambda: session.identity.valid_until,
            lambda: len(self._neighbours.findings),
        )
        try:
            self._monitored = str(monitor.start(self._metrics))
        except StateError as error:
            self._monitored = str(error)
            self._agent.tell("state", str(error))
            return
        self._monitor = monitor

    def _clockwork(self, session: Session) -> list[tuple[float, Callable[[], Awaitable[None]]]]:
        async def hold() -> None:
            self._agent.check_hold()

        async def drift() -> None:
            self._agent.look()
            if not self._agent.working:
                self._look_at_guard()
            await self._agent.generations.store_again()
            self._agent.check_gate()

        async def status() -> None:
            if problem := self._conntrack.look():
                self._agent.tell("kernel", problem)
            self._write_status(session)

        async def renewal() -> None:
            # While a trial goes on its controller must be heard without a pause.
            if self._agent.generations.trial is None or self._renewal.late:
                await self._renewal.look()

        async def watchdog() -> None:
            self._notifier.watchdog()

        jobs: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (HOLD_SECONDS, hold),
            (TRIAL_SECONDS, self._agent.check_trial),
            (CONTAINERS_SECONDS, self._refresh_containers),
            (DRIFT_SECONDS, drift),
            (LISTENERS_SECONDS, self._read_listeners),
            (STATUS_SECONDS, status),
            (RENEWAL_SECONDS, renewal),
            *self._observers.jobs(),
        ]
        if self._notifier.watchdog_seconds:
            jobs.append((self._notifier.watchdog_seconds, watchdog))
        return jobs

    async def _read_listeners(self) -> None:
        paths = {number: path for path, number in self._cgroups.current().items()}
        found = await asyncio.to_thread(read_listeners, paths, self._cgroup_root)
        if found != self._agent.listeners:
            self._agent.listeners = found
            self._agent.facts_changed()

    async def _refresh_names(self) -> None:
        """Names of controllers that move: their new addresses become part of the agent's own channel."""
        while True:
            await self._resolve()
            await asyncio.sleep(NAMES_SECONDS)

    async def _resolve(self) -> None:
        found = await asyncio.to_thread(resolve_endpoints, self._identity.channel, dict(self._resolved), look_up)
        if found == self._resolved:
            return
        self._resolved = found
        self._agent.controllers_changed(endpoints(found))
        try:
            remember(self._folder.path, found)
        except OSError as error:
            log.warning("cannot remember the controllers' addresses in %s: %s", self._folder.path, error.strerror)

    # What SIGHUP asks for

    def _reload_steps(self) -> tuple[Callable[[], Awaitable[str]], ...]:
        async def identity() -> str:
            before = self._renewal.identity
            await self._renewal.look()
            now = self._renewal.identity
            return "identity unchanged" if now == before else f"a new certificate, until {now.valid_until:%Y-%m-%d}"

        async def controllers() -> str:
            await self._resolve()
            return f"controllers {describe(self._resolved)}"

        async def facts() -> str:
            await self._read_listeners()
            await self._refresh_containers()
            return f"{len(self._agent.listeners)} listeners, {len(self._agent.containers)} containers"

        async def rules() -> str:
            self._agent.check_hold()
            self._agent.look()
            await self._agent.generations.store_again()
            return f"rules compared with the kernel's: {self._agent.status}"

        return identity, controllers, facts, rules

    def _write_status(self, session: Session) -> None:
        in_force = self._agent.in_force()
        try:
            self._folder.write_status(
                {
                    "pid": os.getpid(),
                    "version": __version__,
                    "metrics": self._monitored,
                    "trial": self._agent.generations.trial is not None,
                    "fleet": self._identity.fleet,
                    "host": self._identity.host,
                    "state": self._agent.status,
                    "generation": in_force.generation,
                    "digest": in_force.digest,
                    "decision_ids": self._enforcer.decisions.turn,
                    "controller": session.connected_to,
                    "problem": session.problem,
                    "neighbours": [str(finding) for finding in self._neighbours.findings[:_MOST_FINDINGS]],
                    "reports_waiting": self._reports.waiting,
                    "certificate_until": session.identity.valid_until.isoformat(),
                }
            )
        except OSError as error:
            log.warning("cannot write the status to %s: %s", self._folder.path, error.strerror)

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A watcher that fails in its callback would be blind from then on: the agent ends, its unit starts it anew."""
        error = context.get("exception")
        if isinstance(error, SegctlError):
            self._failure = error
            self._stop.set()
        else:
            loop.default_exception_handler(context)

    def _close(self, loop: asyncio.AbstractEventLoop, watch: NftWatch) -> None:
        watch.stop(loop)
        watch.close()
        if self._containers is not None:
            self._containers.close()
        self._cgroups.close()
        self._addresses.close()
        self._observers.close()
        self._kernel.close()


async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """A kernel that refuses a routine look is told by what depends on it; the clockwork goes on."""
    while True:
        try:
            await work()
        except KernelError as error:
            log.warning("%s", error)
        await asyncio.sleep(seconds)
