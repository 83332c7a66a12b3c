"""Host policy and host facts to the wanted ruleset: pure."""

from segctl_agent.render.marks import EPOCHS, MASK
from segctl_agent.render.render import CGROUP_MAP, denied_counters, render
from segctl_agent.render.workloads import NFLOG_GROUP

__all__ = ["CGROUP_MAP", "EPOCHS", "MASK", "NFLOG_GROUP", "denied_counters", "render"]
