"""Host policy and host facts to the wanted ruleset: pure."""

from segctl_agent.render.ends import denied_counters
from segctl_agent.render.forward import container_owners
from segctl_agent.render.marks import DEFAULT_MASK, LIVE, MarkLayout
from segctl_agent.render.render import (
    cgroup_map,
    container_sets,
    counters,
    live_map,
    render,
    render_chains,
    render_sets,
)

__all__ = [
    "DEFAULT_MASK",
    "LIVE",
    "MarkLayout",
    "cgroup_map",
    "container_owners",
    "container_sets",
    "counters",
    "denied_counters",
    "live_map",
    "render",
    "render_chains",
    "render_sets",
]
