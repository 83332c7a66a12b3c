"""Host policy and host facts to the wanted ruleset: pure."""

from segctl_agent.render.ends import denied_counters
from segctl_agent.render.marks import DEFAULT_MASK, LIVE, MarkLayout
from segctl_agent.render.render import (
    CGROUP_MAP,
    counters,
    live_maps,
    render,
    render_chains,
    render_sets,
)

__all__ = [
    "CGROUP_MAP",
    "DEFAULT_MASK",
    "LIVE",
    "MarkLayout",
    "counters",
    "denied_counters",
    "live_maps",
    "render",
    "render_chains",
    "render_sets",
]
