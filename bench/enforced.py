"""The agent's own enforcer on the kernel of a namespace."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Address

from segctl.model.hostpolicy import HostPolicy
from segctl_agent.denials.prefix import NFLOG_GROUP
from segctl_agent.enforcer import Enforcer
from segctl_agent.facts.values import HostFacts
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.operations import Batch

from bench.policies import sandbox_facts
from bench.sandbox import NetworkNamespace

__all__ = ["NFLOG_GROUP", "TimedKernel", "enforced", "new_enforcer", "put_in_force"]


class TimedKernel(NetlinkKernel):
    """`committed` is the monotonic time at which the kernel returned from the last transaction."""

    committed = 0.0

    def apply(self, batch: Batch) -> None:
        super().apply(batch)
        self.committed = time.monotonic()


def new_enforcer(kernel: NetlinkKernel, facts: HostFacts) -> Enforcer:
    """An agent that has just started, and knows its facts."""

    def resolve(names: Iterable[str]) -> Mapping[str, int]:
        return {n: facts.users[n] for n in names if n in facts.users}

    enforcer = Enforcer(kernel, resolve, facts.agent_uid)
    enforcer.cgroups_changed(facts.cgroups, {})
    enforcer.addresses_changed(facts.addresses)
    enforcer.controllers_changed(facts.controller)
    return enforcer


@contextmanager
def enforced(namespace: NetworkNamespace, address: IPv4Address) -> Iterator[tuple[Enforcer, TimedKernel]]:
    """Without a policy yet. The cgroups are those of the sandbox at this time."""
    with namespace.entered():
        kernel = TimedKernel()
    try:
        yield new_enforcer(kernel, sandbox_facts(address)), kernel
    finally:
        kernel.close()


def put_in_force(namespace: NetworkNamespace, policy: HostPolicy, address: IPv4Address) -> None:
    """Raises KernelError when the kernel, read back, holds something else than was wanted."""
    with enforced(namespace, address) as (enforcer, _):
        enforcer.put(policy)
