"""Containers that come and go: the kernel ends in the state of a fresh render, and a start costs elements alone."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segctl.errors import KernelError
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Mode, Process, ProcessKind
from segctl_agent.facts.values import ContainerFact
from segctl_agent.nft.kernel import FakeKernel
from segctl_agent.nft.operations import AddElements, DeleteElements

from tests.unit.segctl_agent.enforcing import CONTROLLER, HTTPS, SQL, A, B, BrokenKernel, enforcer, fresh, ids

OWN = ip_address("10.0.0.9")
SCOPES = {n: f"system.slice/docker-{n:064x}.scope" for n in range(4)}


def container(number: int, name: str, network: int, *addresses: str) -> ContainerFact:
    return ContainerFact(f"{number:064x}", name, SCOPES[number], network, tuple(map(ip_address, addresses)))


def policy(*members: str, generation: int = 1) -> HostPolicy:
    entry = Entry("callers", "callers", (SQL, HTTPS), managed=True)
    workloads = (
        LocalWorkload("host", None, Mode.ENFORCE, egress=(entry,)),
        LocalWorkload("web", Process(ProcessKind.CONTAINER, "web*"), Mode.ENFORCE, ingress=(entry,)),
    )
    callers = Group("callers", hosts=Group("x", (A, B)).hosts.changed(map(ip_address, members)))
    return HostPolicy("h", generation, "d" * 64, workloads, (callers,))


def test_a_container_that_starts_is_some_elements() -> None:
    kernel = BrokenKernel()
    e = enforcer(kernel)
    e.addresses_changed(frozenset({OWN}))
    e.put(policy())
    e.cgroups_changed({"system.slice": 1, SCOPES[1]: 2}, {})
    assert kernel.content == fresh(e)  # its cgroup is there, and nothing is said of it yet
    before = len(kernel.batches)
    e.containers_changed((container(1, "web1", 7, "10.88.0.2"),), ())
    assert kernel.content == fresh(e)
    (batch,) = kernel.batches[before:]
    assert {type(o) for o in batch.operations} <= {AddElements, DeleteElements}
    e.containers_changed((container(1, "web1", 7, "10.88.0.2"),), ())
    assert len(kernel.batches) == before + 1


def test_a_bridge_that_comes_is_a_rule() -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    e.put(policy())
    e.containers_changed((), ("docker0",))
    assert kernel.content == fresh(e)
    assert any("docker0" in r.text for r in fresh(e).chains["forward_out"].rules)


def test_this_host_in_a_group_is_its_containers_in_it() -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    e.addresses_changed(frozenset({OWN}))
    e.put(policy())
    e.put(policy(str(OWN), generation=2))  # members alone have moved: but this one is in chains too
    assert kernel.content == fresh(e)
    assert any("@local4" in r.text for r in fresh(e).chains["permits_web_in"].rules)
    e.put(policy(generation=3))
    assert kernel.content == fresh(e)
    assert not any("@local4" in r.text for r in fresh(e).chains["permits_web_in"].rules)


def test_a_container_with_another_name_is_judged_anew() -> None:
    """What its old name was permitted is not its new one's: a session must not outlive `docker rename`."""
    kernel = FakeKernel()
    e = enforcer(kernel)
    e.put(policy())
    e.cgroups_changed({"system.slice": 1, SCOPES[1]: 2}, {})
    e.containers_changed((container(1, "web1", 7, "10.88.0.2"),), ())
    before = ids(kernel)
    pod = container(2, "batch", 7, "10.88.0.2")  # in the same network: its address stays the named one's
    for _ in range(2):
        e.containers_changed((container(1, "web2", 7, "10.88.0.2"), pod), ())
        e.containers_changed((container(1, "web2", 7, "10.88.0.2"), pod, container(3, "db", 9, "10.88.0.4")), ())
    assert ids(kernel) == before
    e.containers_changed((container(1, "other", 7, "10.88.0.2"), pod), ())
    assert kernel.content == fresh(e)
    assert all(n != before[d] for d, n in ids(kernel).items())


def test_a_container_with_another_name_is_judged_anew_also_when_the_kernel_refuses_it_at_first() -> None:
    kernel = BrokenKernel()
    e = enforcer(kernel)
    e.put(policy())
    e.cgroups_changed({"system.slice": 1, SCOPES[1]: 2}, {})
    e.containers_changed((container(1, "web1", 7, "10.88.0.2"),), ())
    before = ids(kernel)
    kernel.refusals = [KernelError("no")]
    renamed = (container(1, "other", 7, "10.88.0.2"),)
    with pytest.raises(KernelError):
        e.containers_changed(renamed, ())
    e.containers_changed(renamed, ())
    e.controllers_changed((CONTROLLER,))  # asks for other ids alone
    assert e.heal() == ()
    assert kernel.content == fresh(e)
    assert all(n != before[d] for d, n in ids(kernel).items())


def test_when_this_host_leaves_a_group_by_an_address_the_flows_of_its_containers_are_judged_anew() -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    e.addresses_changed(frozenset({OWN, ip_address("10.0.0.8")}))
    e.put(policy(str(OWN)))
    before = ids(kernel)
    assert e.addresses_changed(frozenset({ip_address("10.0.0.8")}))
    assert kernel.content == fresh(e)
    assert all(n != before[d] for d, n in ids(kernel).items())


def test_an_address_of_this_host_more_is_in_the_local_set() -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    e.put(policy())
    e.addresses_changed(frozenset({OWN, ip_address("10.88.0.1")}))
    assert kernel.content == fresh(e)
    assert set(fresh(e).sets["local4"].elements) == {OWN.packed, bytes((10, 88, 0, 1))}


FACTS = st.lists(
    st.tuples(
        st.sampled_from(sorted(SCOPES)),
        st.sampled_from(("web1", "batch")),
        st.sampled_from((7, 8)),
        st.sampled_from(("10.88.0.2", "10.88.0.3", "fd00::2")),
    ),
    max_size=4,
    unique_by=lambda c: c[0],
)
EVENTS = st.one_of(
    st.tuples(st.just("containers"), FACTS),
    st.tuples(st.just("policy"), st.sampled_from((policy(), policy(str(OWN)), policy("10.0.0.7")))),
    st.tuples(st.just("addresses"), st.sampled_from((OWN, ip_address("10.88.0.1")))),
    st.tuples(st.just("cgroups"), st.sampled_from(sorted(SCOPES))),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(EVENTS, max_size=12))
def test_whatever_happens_the_kernel_is_a_fresh_render(events: list[tuple[str, object]]) -> None:
    kernel = FakeKernel()
    e = enforcer(kernel)
    e.put(policy())
    for number, (what, value) in enumerate(events):
        if what == "containers":
            found = sorted((container(*c) for c in value), key=lambda c: c.cgroup)  # type: ignore[attr-defined]
            e.containers_changed(tuple(found), ("docker0",) if number % 2 else ())
        elif what == "policy":
            e.put(replace(value, generation=number))  # type: ignore[type-var]
        elif what == "addresses":
            e.addresses_changed(frozenset({value}))  # type: ignore[arg-type]
        else:
            path = SCOPES[value]  # type: ignore[index]
            e.cgroups_changed({path: number + 10}, {p: n for p, n in e.facts.cgroups.items() if p == path})
        assert kernel.content == fresh(e)
