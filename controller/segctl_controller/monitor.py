"""The controller's pages for monitoring: /metrics, /healthz, /readyz.

docs/observability.md shows METRICS as a table; a test compares both, and both with what is sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from segctl import __version__
from segctl.errors import SegctlError
from segctl.logs import Event, EventCounter
from segctl.measure import LoopLag, Metric, Value
from segctl.metrics import Metrics
from segctl.statuspage import Page, StatusPage, Where, verdict

from segctl_controller.feed import Feed
from segctl_controller.fleet import Fleet
from segctl_controller.flowstore.thread import FlowThread
from segctl_controller.rotation import CaSet
from segctl_controller.store_thread import StoreThread

STATES = ("in-sync", "pending", "refused", "released", "offline", "never-connected")
STORE_SECONDS = 3.0
"""For a write to the database that proves that it can be written."""
PROVED_SECONDS = 5.0
"""For so long a proof counts: whoever asks often makes no more work."""
EVENTS = tuple(
    e.value
    for e in (
        Event.PUSH,
        Event.ROLLBACK,
        Event.CONFIRMED,
        Event.UNDONE,
        Event.TAKEN_BACK,
        Event.COMPILED,
        Event.SESSION,
        Event.SESSION_ENDED,
        Event.PROVED,
        Event.POLICY_REFUSED,
        Event.RELEASED,
        Event.ENROLLED,
        Event.REQUEST_REFUSED,
        Event.ADDRESS_REFUSED,
        Event.IDENTITY,
        Event.HOST_EVENT,
        Event.STORE,
    )
)
FLOWS = "segctl_controller_flow_seconds"
STORE, DELAY = "segctl_controller_store_seconds", "segctl_controller_loop_delay_seconds"
LAG_EVERY = 0.02
"""Seconds between two looks at how late the loop comes."""
METRICS = (
    Metric("segctl_controller_build_info", "gauge", "1; the version of the controller.", ("version",), (__version__,)),
    Metric("segctl_controller_generation", "gauge", "The active generation; 0: no policy was pushed yet."),
    Metric(
        "segctl_controller_hosts", "gauge", "Enrolled hosts by state, as `segctl status` says it.", ("state",), STATES
    ),
    Metric("segctl_controller_trial", "gauge", "1 while a push is on trial."),
    Metric("segctl_controller_sessions", "gauge", "Agents that are connected to this controller."),
    Metric("segctl_controller_replicas", "gauge", "Controllers that serve on this database, with this one."),
    Metric("segctl_controller_events", "counter", "Logged events by SEGCTL_EVENT.", ("event",), EVENTS),
    Metric(
        "segctl_controller_log_lines", "counter", "Logged lines by level.", ("level",), ("info", "warning", "error")
    ),
    Metric("segctl_controller_reports", "counter", "Reports of agents that were stored."),
    Metric("segctl_controller_denial_followers", "gauge", "Operators that follow denials now."),
    Metric(STORE, "histogram", "A call of the database, from the thread that makes it."),
    Metric("segctl_controller_store_failures", "counter", "Calls that the database could not carry out."),
    Metric("segctl_controller_store_waiting", "gauge", "Calls that wait for the database, with those that run."),
    Metric("segctl_controller_database_bytes", "gauge", "Size of the database's files; none on PostgreSQL."),
    Metric("segctl_controller_flows_stored", "counter", "Rows of flows that agents told and that were stored."),
    Metric("segctl_controller_flow_rows", "gauge", "Rows in the flow store, at most a minute ago."),
    Metric("segctl_controller_flow_bytes", "gauge", "What they take on the disk."),
    Metric(FLOWS, "histogram", "A commit of the flow store: of all reports that waited for it."),
    Metric("segctl_controller_flow_failures", "counter", "Commits that the flow store could not carry out."),
    Metric("segctl_controller_flow_waiting", "gauge", "Reports with flows that wait for their commit."),
    Metric("segctl_controller_ca_expiry_timestamp_seconds", "gauge", "When the fleet's CA certificate ends."),
    Metric("segctl_controller_ca_rotation", "gauge", "1 while the fleet's CA is rotated."),
    Metric(
        "segctl_controller_hosts_of_old_ca",
        "gauge",
        "Hosts whose certificate in use is not of the CA that signs new ones.",
    ),
    Metric("segctl_controller_certificate_expiry_timestamp_seconds", "gauge", "When the controller's own ends."),
    Metric(
        "segctl_controller_loop_lag_seconds",
        "gauge",
        "How late the controller came to its work, at worst in 30 to 60 s.",
    ),
    Metric(DELAY, "histogram", "How late the controller came to its work, every 20 ms."),
)


class Monitor:
    """`expiries` gives the ends of the CA's and of the controller's own certificate, `cas` the CAs. `compiles` is False
    when the task that keeps host policies in line has ended. `replicas` counts the controllers that serve."""

    def __init__(
        self,
        fleet: Fleet,
        db: StoreThread,
        flows: FlowThread,
        feed: Feed,
        expiries: Callable[[], tuple[datetime, datetime]],
        compiles: Callable[[], bool],
        database: Path | None = None,
        cas: Callable[[], CaSet] | None = None,
        replicas: Callable[[], int] = lambda: 1,
    ) -> None:
        self._fleet, self._db, self._flows, self._feed = fleet, db, flows, feed
        self._database, self._cas = database, cas
        self._expiries, self._compiles = expiries, compiles
        self._replicas = replicas
        self._events, self._lag = EventCounter(), LoopLag()
        self._metrics = Metrics(METRICS, self.values)
        self._proof: asyncio.Task[str] | None = None
        self._proved_at = 0.0
        self._measuring: asyncio.Task[None] | None = None
        self._status = StatusPage({"/metrics": self._page, "/healthz": self._healthy, "/readyz": self._ready})

    def start(self, where: Where) -> Where:
        """Raises StateError."""
        found = self._status.start(where)
        logging.getLogger().addHandler(self._events)
        self._measuring = asyncio.create_task(self._lag.run(LAG_EVERY), name="loop-lag")
        return found

    async def close(self) -> None:
        logging.getLogger().removeHandler(self._events)
        if self._measuring is not None:
            self._measuring.cancel()
        await self._status.close()

    def values(self) -> Mapping[str, Value]:
        fleet, expiries = self._fleet, self._expiries()
        states = [fleet.state(name) for name in fleet.hosts]
        found: dict[str, Value] = {
            "segctl_controller_build_info": {__version__: 1},
            "segctl_controller_generation": fleet.active.number,
            "segctl_controller_trial": fleet.trial is not None,
            "segctl_controller_hosts": {s: states.count(s) for s in STATES},
            "segctl_controller_sessions": sum(
                s.connected and not s.elsewhere for s in map(fleet.standing, fleet.hosts)
            ),
            "segctl_controller_replicas": self._replicas(),
            "segctl_controller_events": {e: self._events.events[Event(e)] for e in EVENTS},
            "segctl_controller_log_lines": self._events.lines,
            "segctl_controller_reports": self._feed.batches,
            "segctl_controller_denial_followers": self._feed.followers,
            STORE: self._db.took,
            "segctl_controller_store_failures": self._db.failures,
            "segctl_controller_store_waiting": self._db.waiting,
            "segctl_controller_flows_stored": self._flows.stored_rows,
            "segctl_controller_flow_rows": self._flows.size.rows,
            "segctl_controller_flow_bytes": self._flows.size.bytes,
            FLOWS: self._flows.took,
            "segctl_controller_flow_failures": self._flows.failures,
            "segctl_controller_flow_waiting": self._flows.waiting,
            "segctl_controller_ca_expiry_timestamp_seconds": expiries[0].timestamp(),
            "segctl_controller_certificate_expiry_timestamp_seconds": expiries[1].timestamp(),
            "segctl_controller_loop_lag_seconds": self._lag.worst,
            DELAY: self._lag.delays,
        }
        if self._cas is not None:
            cas = self._cas()
            found["segctl_controller_ca_rotation"] = cas.next is not None
            of_old = (cas.giver(host.serial) is not cas.signing for host in fleet.hosts.values())
            found["segctl_controller_hosts_of_old_ca"] = sum(of_old)
        if self._database is not None:
            found["segctl_controller_database_bytes"] = _bytes(self._database)
        return found

    async def _page(self) -> Page:
        return self._metrics.page()

    async def _healthy(self) -> Page:
        return Page(b"ok\n")

    async def _ready(self) -> Page:
        found = [] if self._compiles() else ["host policies are not compiled any more"]
        problem = await self._store_problem()
        return verdict((*found, *([problem] if problem else [])))

    async def _store_problem(self) -> str:
        """One write for all who ask at the same time, and for those who ask soon after."""
        now = asyncio.get_running_loop().time()
        if self._proof is None or (self._proof.done() and now - self._proved_at > PROVED_SECONDS):
            self._proof, self._proved_at = asyncio.create_task(self._prove()), now
        try:
            async with asyncio.timeout(STORE_SECONDS):
                return await asyncio.shield(self._proof)
        except TimeoutError:
            return f"the database did not take a write within {STORE_SECONDS:g} s"

    async def _prove(self) -> str:
        try:
            await self._db.call(self._db.store.prove_writable)
        except (SegctlError, RuntimeError):  # RuntimeError: the thread has ended
            return "the database cannot be written: see the controller's log"
        return ""


def _bytes(database: Path) -> int:
    total = 0
    for suffix in ("", "-wal", "-shm"):
        try:
            total += database.with_name(database.name + suffix).stat().st_size
        except OSError:
            continue
    return total
