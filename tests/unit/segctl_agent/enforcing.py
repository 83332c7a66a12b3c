"""Policies, facts and a kernel of dictionaries for the tests of the enforcer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network

from segctl.errors import KernelError
from segctl.model.addresses import AddressSet
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Essentials, Mode, PortRange, Process, ProcessKind
from segctl_agent.decisions import Decision, noted
from segctl_agent.enforcer import Enforcer
from segctl_agent.facts.values import Endpoint
from segctl_agent.nft.kernel import FakeKernel
from segctl_agent.nft.operations import Batch
from segctl_agent.nft.ruleset import Chain, Ruleset
from segctl_agent.render import MarkLayout, render

UID = 990
A, B = ip_network("10.0.0.1/32"), ip_network("10.0.0.2/32")
OFFICE = ip_network("203.0.113.0/24")
SQL, HTTPS = PortRange("tcp", 5432, 5432), PortRange("tcp", 443, 443)
USERS = {"backup": 1500, "deploy": 1501}
CONTROLLER = Endpoint(ip_address("192.0.2.1"), 7443)


def unit(name: str) -> Process:
    return Process(ProcessKind.UNIT, name)


def policy(
    generation: int = 1, *, mode: Mode = Mode.ENFORCE, open_to: Iterable[str] = ("a",), user: str = ""
) -> HostPolicy:
    entries = {
        "a": Entry("web-to-db", "ga", (SQL,), managed=True),
        "b": Entry("api-to-db", "gb", (SQL, HTTPS), managed=True),
        "office": Entry("office-to-db", "office", (HTTPS,), managed=False),
    }
    workloads = [
        LocalWorkload("db", unit("db.service"), mode, ingress=tuple(entries[n] for n in open_to)),
        LocalWorkload("host", None, Mode.OBSERVE),
        LocalWorkload("web", unit("web@*.service"), Mode.TEST, egress=(entries["a"],)),
    ]
    if user:
        process = Process(ProcessKind.USER, user)
        workloads.append(LocalWorkload("user", process, Mode.ENFORCE, egress=(entries["b"],)))
    return HostPolicy(
        host="db-1",
        generation=generation,
        policy_digest="d" * 64,
        workloads=tuple(sorted(workloads, key=lambda w: w.name)),
        groups=(Group("ga", (A,)), Group("gb", (A, B)), Group("office", (OFFICE,))),
        managed=AddressSet.of([ip_address("203.0.113.9")]),
        essentials=Essentials(dns=(ip_network("10.0.0.53/32"),)),
    )


def resolve(names: Iterable[str]) -> dict[str, int]:
    return {n: USERS[n] for n in names if n in USERS}


def enforcer(kernel: FakeKernel) -> Enforcer:
    return Enforcer(kernel, resolve, UID)


def ids(kernel: FakeKernel) -> Mapping[Decision, int]:
    """The decisions that the table notes, those that live."""
    assert kernel.content is not None
    found = noted(kernel.content.chains, MarkLayout().most)
    assert found is not None
    return {d: n for d, n in found.ids.items() if d.lives}


def fresh(e: Enforcer) -> Ruleset:
    """What a new agent would render from the same policy and facts."""
    assert e.policy is not None
    names = [w.process.pattern for w in e.policy.workloads if w.process and w.process.kind is ProcessKind.USER]
    return render(e.policy, replace(e.facts, users=resolve(names)), e.decisions)


class BrokenKernel(FakeKernel):
    """Refuses the next batches, or lets someone change the table right after them."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals: list[KernelError] = []
        self.meddlers: list[Callable[[], None]] = []

    def apply(self, batch: Batch) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        super().apply(batch)
        if self.meddlers:
            self.meddlers.pop(0)()

    def spoil(self) -> None:
        """Someone adds a chain."""
        assert self.content is not None
        self.content = replace(self.content, chains={**self.content.chains, "junk": Chain()})
        self._generation += 1
