"""The agent's pages for monitoring: /metrics, /healthz, /readyz.

docs/observability.md shows METRICS as a table; a test compares both, and both with what is sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING

from segctl import __version__
from segctl.logs import Event, EventCounter
from segctl.measure import LoopLag, Metric, Value
from segctl.model.policy import Mode
from segctl.statuspage import Page, StatusPage, Where, verdict

from segctl_agent.agent import Agent
from segctl_agent.facts.conntrack import read_fill
from segctl_agent.session import Session

if TYPE_CHECKING:
    from segctl.metrics import Metrics

STALE_SECONDS = 60.0
"""The table is compared with the policy every 10 s; after so long without it the agent is not ready."""
EVENTS = tuple(
    e.value
    for e in (
        Event.POLICY,
        Event.TRIAL,
        Event.CONFIRMED,
        Event.UNDONE,
        Event.POLICY_REFUSED,
        Event.SESSION,
        Event.SESSION_ENDED,
        Event.TAMPER,
        Event.KERNEL,
        Event.STATE,
        Event.FACTS,
        Event.REPORT,
    )
)
APPLY = "segctl_agent_kernel_apply_seconds"
METRICS = (
    Metric("segctl_agent_build_info", "gauge", "1; the version of the agent.", ("version",), (__version__,)),
    Metric("segctl_agent_generation", "gauge", "The generation in force in the kernel; 0: none."),
    Metric(
        "segctl_agent_workloads",
        "gauge",
        "Workloads of this host by their mode; all 0 where nothing is enforced.",
        ("mode",),
        tuple(m.value for m in Mode),
    ),
    Metric("segctl_agent_released", "gauge", "1 while an operator has taken the rules off this host."),
    Metric("segctl_agent_table_owned", "gauge", "1 where the kernel refuses others' changes, 0 where they are undone."),
    Metric("segctl_agent_trial", "gauge", "1 while the generation in force is on trial."),
    Metric("segctl_agent_stored", "gauge", "1 when the generation in force would survive a reboot."),
    Metric("segctl_agent_behind", "gauge", "1 while the kernel refuses what the agent wants it to hold."),
    Metric("segctl_agent_compared_timestamp_seconds", "gauge", "When the kernel's table was last found or made right."),
    Metric("segctl_agent_connected", "gauge", "1 while there is a session with a controller."),
    Metric("segctl_agent_certificate_expiry_timestamp_seconds", "gauge", "When this host's certificate ends."),
    Metric(
        "segctl_agent_denials",
        "counter",
        "Packets that were denied, or would have been, and are described in a report.",
        ("direction", "verdict"),
        ("in/denied", "in/would-deny", "out/denied", "out/would-deny"),
    ),
    Metric(
        "segctl_agent_denials_undescribed", "counter", "Denied packets that were counted and could not be described."
    ),
    Metric("segctl_agent_reports_queued", "gauge", "What the controller has not acknowledged yet."),
    Metric(
        "segctl_agent_reports_lost",
        "counter",
        "What did not fit the queue or was refused, and will never be told one by one.",
        ("what",),
        ("denials", "events", "flows"),
    ),
    Metric(APPLY, "histogram", "From a policy of the controller to its proof from the kernel."),
    Metric("segctl_agent_heals", "counter", "How often others' changes of the table were undone."),
    Metric("segctl_agent_events", "counter", "Logged events by SEGCTL_EVENT.", ("event",), EVENTS),
    Metric("segctl_agent_log_lines", "counter", "Logged lines by level.", ("level",), ("info", "warning", "error")),
    Metric("segctl_agent_cgroups", "gauge", "Cgroups that the agent follows."),
    Metric("segctl_agent_foreign_findings", "gauge", "Rules and tables of others that touch what segctl does."),
    Metric("segctl_agent_conntrack_entries", "gauge", "Flows that the kernel tracks."),
    Metric("segctl_agent_conntrack_entries_max", "gauge", "How many it can track; then it drops new connections."),
    Metric("segctl_agent_loop_lag_seconds", "gauge", "How late the agent came to its work, at worst in 30 to 60 s."),
)


class Monitor:
    """Made once there is a session. `run` as a task; `close` at the end."""

    def __init__(
        self,
        agent: Agent,
        session: Session,
        events: EventCounter,
        certificate_until: Callable[[], datetime],
        findings: Callable[[], int],
    ) -> None:
        self._agent, self._session, self._events = agent, session, events
        self._until, self._findings = certificate_until, findings
        self._lag = LoopLag()
        self._metrics: Metrics | None = None
        self._status = StatusPage({"/metrics": self._page, "/healthz": self._healthy, "/readyz": self._ready})

    def start(self, where: Where) -> Where:
        """Raises StateError."""
        return self._status.start(where)

    async def run(self) -> None:
        await self._lag.run()

    async def close(self) -> None:
        await self._status.close()

    async def _page(self) -> Page:
        if self._metrics is None:
            # In a thread: it takes a tenth of a second, in which a new cgroup must not wait.
            library = await asyncio.to_thread(import_module, "segctl.metrics")
            self._metrics = library.Metrics(METRICS, self.values)
        return self._metrics.page()

    async def _healthy(self) -> Page:
        return Page(b"ok\n")

    async def _ready(self) -> Page:
        return verdict(self.unready())

    def unready(self) -> tuple[str, ...]:
        """Why this host is not enforcing as it should, in words that name nothing of the policy."""
        return reasons(
            released=bool(self._agent.held),
            generation=self._agent.in_force().generation,
            behind=self._agent.behind,
            age=time.monotonic() - self._agent.compared_at,
        )

    def values(self) -> Mapping[str, Value]:
        agent, reports = self._agent, self._agent.reports
        policy, fill = agent.enforcer.policy, read_fill()
        modes = [w.mode.value for w in policy.workloads] if policy is not None and not agent.held else []
        found: dict[str, Value] = {
            "segctl_agent_build_info": {__version__: 1},
            "segctl_agent_generation": agent.in_force().generation,
            "segctl_agent_workloads": {m.value: modes.count(m.value) for m in Mode},
            "segctl_agent_released": bool(agent.held),
            "segctl_agent_table_owned": agent.table_guard == "owned",
            "segctl_agent_trial": agent.generations.trial is not None,
            "segctl_agent_stored": agent.stored,
            "segctl_agent_behind": agent.behind,
            "segctl_agent_compared_timestamp_seconds": time.time() - (time.monotonic() - agent.compared_at),
            "segctl_agent_connected": bool(self._session.connected_to),
            "segctl_agent_certificate_expiry_timestamp_seconds": self._until().timestamp(),
            "segctl_agent_denials": agent.tally.denials,
            "segctl_agent_denials_undescribed": agent.tally.undescribed,
            "segctl_agent_reports_queued": reports.waiting,
            "segctl_agent_reports_lost": reports.lost_so_far,
            "segctl_agent_heals": agent.tally.heals,
            APPLY: agent.tally.applied,
            "segctl_agent_events": {e: self._events.events[Event(e)] for e in EVENTS},
            "segctl_agent_log_lines": self._events.lines,
            "segctl_agent_cgroups": agent.enforcer.cgroup_count,
            "segctl_agent_foreign_findings": self._findings(),
            "segctl_agent_loop_lag_seconds": self._lag.worst,
        }
        if fill is not None:
            found["segctl_agent_conntrack_entries"] = fill.entries
            found["segctl_agent_conntrack_entries_max"] = fill.most
        return found


def reasons(*, released: bool, generation: int, behind: bool, age: float) -> tuple[str, ...]:
    """`age`: seconds since the kernel's table was last found right."""
    found = []
    if released:
        found.append("released: nothing is enforced")
    elif not generation:
        found.append("no generation is in force")
    if behind:
        found.append("the kernel refuses what it should hold")
    if age > STALE_SECONDS and not released:
        found.append(f"the kernel's table was not compared for {age:.0f} s")
    return tuple(found)
