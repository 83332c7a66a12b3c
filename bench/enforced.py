"""Puts a host policy in force in a namespace, through the agent's own renderer, planner and kernel adapter."""

from __future__ import annotations

from ipaddress import IPv4Address

from segctl.model.hostpolicy import HostPolicy
from segctl_agent.denials.prefix import NFLOG_GROUP
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import Ruleset
from segctl_agent.render import render

from bench.policies import sandbox_facts
from bench.sandbox import NetworkNamespace

__all__ = ["NFLOG_GROUP", "put_in_force"]


def put_in_force(namespace: NetworkNamespace, policy: HostPolicy, address: IPv4Address, epoch: int = 1) -> Ruleset:
    """Renders, applies, reads back; raises RuntimeError when the kernel holds something else than was wanted."""
    wanted = render(policy, sandbox_facts(address), epoch)
    with namespace.entered():
        kernel = NetlinkKernel()
    try:
        kernel.apply(plan(kernel.read(), wanted))
        if kernel.read() != wanted:
            raise RuntimeError("the kernel does not hold what was applied: see tests/netns for plan and read-back")
    finally:
        kernel.close()
    return wanted
