"""Host policy and host facts to the wanted ruleset: pure."""

from segctl_agent.denials.prefix import NFLOG_GROUP
from segctl_agent.render.ends import denied_counters
from segctl_agent.render.marks import EPOCHS, MASK
from segctl_agent.render.render import CGROUP_MAP, render

__all__ = ["CGROUP_MAP", "EPOCHS", "MASK", "NFLOG_GROUP", "denied_counters", "render"]
