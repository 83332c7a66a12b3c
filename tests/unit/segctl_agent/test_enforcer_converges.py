"""Whatever happens in whatever order, the kernel ends in the state of a fresh render."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st
from segctl.model.hostpolicy import HostPolicy
from segctl.model.policy import Mode
from segctl_agent.facts.values import HostFacts
from segctl_agent.nft.operations import Batch, DeleteTable
from segctl_agent.render import render

from tests.unit.segctl_agent.enforcing import (
    UID,
    BrokenKernel,
    enforcer,
    policy,
    resolve,
)

PATHS = [
    "system.slice",
    "system.slice/db.service",
    "system.slice/web@1.service",
    "system.slice/db.service/child",
    "user.slice",
    "user.slice/user-1500.slice",
    "init.scope",
]
POLICIES = [
    policy(1),
    policy(2, open_to=("a", "b", "office")),
    policy(3, open_to=(), mode=Mode.TEST),
    policy(4, user="backup"),
    policy(5, user="missing"),
]
EVENTS = st.one_of(
    st.tuples(st.just("policy"), st.sampled_from(range(len(POLICIES)))),
    st.tuples(st.just("up"), st.sampled_from(PATHS)),
    st.tuples(st.just("down"), st.sampled_from(PATHS)),
    st.tuples(st.just("addresses"), st.sampled_from(["10.0.0.9", "192.0.2.1"])),
    st.tuples(st.just("tamper"), st.sampled_from(["delete", "spoil"])),
    st.tuples(st.just("restart"), st.none()),
)


class World:
    """A host: its cgroups by path, and an agent that hears of every change."""

    def __init__(self) -> None:
        self.kernel = BrokenKernel()
        self.cgroups: dict[str, int] = {}
        self.next_id = 100
        self.addresses: frozenset[object] = frozenset()
        self.policy: HostPolicy | None = None
        self.agent = enforcer(self.kernel)

    def restart(self) -> None:
        before = self.agent.decisions.turn
        self.agent = enforcer(self.kernel)
        self.agent.cgroups_changed(dict(self.cgroups), {})
        self.agent.addresses_changed(self.addresses)  # type: ignore[arg-type]
        if self.policy is not None:
            self.agent.resume(self.policy, before)

    def happen(self, kind: str, what: object) -> None:
        if kind == "policy":
            self.policy = POLICIES[what]  # type: ignore[call-overload]
            self.agent.put(self.policy)
        elif kind == "up":
            path = str(what)
            removed = {path: self.cgroups[path]} if path in self.cgroups else {}
            self.next_id += 1
            self.cgroups[path] = self.next_id
            self.agent.cgroups_changed({path: self.next_id}, removed)
        elif kind == "down" and what in self.cgroups:
            gone = {p: self.cgroups.pop(p) for p in list(self.cgroups) if p == what or p.startswith(f"{what}/")}
            self.agent.cgroups_changed({}, gone)
        elif kind == "addresses":
            self.addresses = frozenset({ip_address(str(what))})
            self.agent.addresses_changed(self.addresses)  # type: ignore[arg-type]
        elif kind == "tamper" and self.policy is not None:
            if what == "delete":
                self.kernel.apply(Batch((DeleteTable(),)))
            else:
                self.kernel.spoil()
            self.agent.heal()
        elif kind == "restart":
            self.restart()


@settings(max_examples=120, deadline=None)
@given(st.lists(EVENTS, max_size=25))
def test_any_order_of_events_ends_in_the_state_of_a_fresh_render(events: list[tuple[str, object]]) -> None:
    world = World()
    for kind, what in events:
        world.happen(kind, what)
        if world.policy is not None:
            assert world.kernel.content == world.agent.wanted
            assert world.agent.facts.cgroups == world.cgroups
    if world.policy is None:
        assert world.kernel.content is None
        return
    facts = HostFacts(
        cgroups=world.cgroups,
        departed=world.agent.facts.departed,
        users=resolve(["backup"]) if world.policy.generation == 4 else {},
        addresses=world.addresses,  # type: ignore[arg-type]
        agent_uid=UID,
    )
    assert world.kernel.content == render(world.policy, facts, world.agent.decisions)
