"""Puts a host policy in force in a namespace, through the agent's own renderer, planner and kernel adapter."""

from __future__ import annotations

from ipaddress import IPv4Address

from segctl.model.hostpolicy import HostPolicy
from segctl_agent.decisions import Decisions, assign, needed
from segctl_agent.denials.prefix import NFLOG_GROUP
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import Ruleset
from segctl_agent.render import MarkLayout, render

from bench.policies import sandbox_facts
from bench.sandbox import NetworkNamespace

__all__ = ["NFLOG_GROUP", "first_ids", "put_in_force"]


def first_ids(policy: HostPolicy, turn: int = 0) -> Decisions:
    """Decision ids for a table that nobody had before."""
    return assign(Decisions(turn=(turn, turn)), needed(policy), (), MarkLayout().most)


def put_in_force(namespace: NetworkNamespace, policy: HostPolicy, address: IPv4Address, turn: int = 0) -> Ruleset:
    """Renders, applies, reads back; raises RuntimeError when the kernel holds something else than was wanted."""
    wanted = render(policy, sandbox_facts(address), first_ids(policy, turn))
    with namespace.entered():
        kernel = NetlinkKernel()
    try:
        kernel.apply(plan(kernel.read(), wanted))
        if kernel.read() != wanted:
            raise RuntimeError("the kernel does not hold what was applied: see tests/netns for plan and read-back")
    finally:
        kernel.close()
    return wanted
