"""Host policy and host facts to the wanted ruleset: pure."""

from segctl_agent.render.marks import DEFAULT_MASK, LIVE, MarkLayout
from segctl_agent.render.render import (
    CGROUP_MAP,
    counters,
    denied_counters,
    live_maps,
    render,
    render_chains,
    render_sets,
)
from segctl_agent.render.workloads import NFLOG_GROUP

__all__ = [
    "CGROUP_MAP",
    "DEFAULT_MASK",
    "LIVE",
    "NFLOG_GROUP",
    "MarkLayout",
    "counters",
    "denied_counters",
    "live_maps",
    "render",
    "render_chains",
    "render_sets",
]
