"""Whatever befalls two hosts in whatever order, their kernels hold what a render from scratch gives, and do what the
explainer says.

A random walk of two agents on the real kernel, each with its enforcer, among real processes: policies change as wholes
and by rules, ports, modes, tags and times; units restart, addresses come and go, someone tampers with the table in
every way there is, and agents are killed and resume from what they stored, also after the world has moved on.

SEGCTL_MACHINE_SECONDS bounds the time, SEGCTL_MACHINE_SEED repeats a walk.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import pytest
from segctl.model.hostpolicy import HostPolicy
from segctl.model.policy import Mode, ModeRule, Rule, Selector
from segctl.policy.compile import compile_host
from segctl.policy.explain import overall
from segctl_agent.facts.values import Endpoint

from tests.netns import machine
from tests.netns.expected import Expectation, Probe, draw_probes
from tests.netns.fleet import PLACES, Fleet
from tests.netns.machine import Agent
from tests.netns.randompolicy import NOW, RandomPolicies

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(3600)]
SECONDS = float(os.environ.get("SEGCTL_MACHINE_SECONDS", "15"))
PROBES_EACH, SESSIONS = 24, 8
_SHORT, _LONG = 0.05, 2.5


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    made = Fleet(hosts=2, agents=False)
    try:
        yield made
    finally:
        made.close()


class Walk:
    """`told` is the policy that each host has; `said` what happened so far, for the message of a failure."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.fleet = fleet
        self.random = Random(seed)
        self.policies = RandomPolicies(seed, [m.addresses for m in fleet.hosts])
        self.policy, self.inventory = self.policies.draw()
        self.generation = 0
        self.agents = [Agent(member) for member in fleet.hosts]
        self.said: list[str] = []
        self.counts: Counter[str] = Counter()
        self.told: dict[int, HostPolicy] = {}
        self.sessions: dict[int, tuple[Probe, tuple[int, int]]] = {}
        self.opened = 0
        for agent in self.agents:
            agent(machine.start, agent.member.facts, None)
        self.push()

    def push(self) -> None:
        self.generation += 1
        for agent in self.agents:
            number = agent.member.index
            self.told[number] = self._compiled(number)
            agent(machine.put, self.told[number])

    def _compiled(self, number: int) -> HostPolicy:
        return compile_host(self.policy, self.inventory, f"h{number}", self.generation, "digest", NOW)

    # What can happen. Each answers what it did.

    def another_policy(self) -> str:
        self.policy, self.inventory = self.policies.draw()
        self.push()
        return "another policy"

    def rule_gone(self) -> str:
        if len(self.policy.rules) < 2:
            return self.another_policy()
        rule = self.random.choice(self.policy.rules)
        self.policy = replace(self.policy, rules=tuple(r for r in self.policy.rules if r is not rule))
        self.push()
        return f"rule {rule.name} gone"

    def rule_narrowed(self) -> str:
        return self._with_rule("narrowed", lambda rule: replace(rule, ports=rule.ports[:1]))

    def rule_without_end(self) -> str:
        return self._with_rule("without end", lambda rule: replace(rule, within=(), until=None))

    def _with_rule(self, what: str, change: Callable[[Rule], Rule]) -> str:
        chosen = self.random.randrange(len(self.policy.rules))
        rules = [change(r) if i == chosen else r for i, r in enumerate(self.policy.rules)]
        self.policy = replace(self.policy, rules=tuple(rules))
        self.push()
        return f"rule {rules[chosen].name} {what}"

    def rule_expired(self) -> str:
        """What a rule permits ends by itself: no agent does anything for it."""
        rule = self.random.choice(self.policy.rules)
        self.generation += 1
        for agent in self.agents:
            number = agent.member.index
            self.told[number] = agent(machine.expiring, self._compiled(number), rule.name, 0.2)
        time.sleep(1.3)
        self.policy = replace(self.policy, rules=tuple(r for r in self.policy.rules if r is not rule))
        if not self.policy.rules:
            return f"rule {rule.name}, the last, expired; {self.another_policy()}"
        return f"rule {rule.name} expired"

    def member_came_and_went(self) -> str:
        agent = self._agent()
        wrong = agent(machine.member_comes_and_goes, self.random.randrange(1 << 30))
        assert wrong == (), f"h{agent.member.index} with one member more: {wrong}"
        return f"h{agent.member.index}: a member came and went"

    def modes(self) -> str:
        mode = self.random.choice(list(Mode))
        self.policy = replace(self.policy, modes=(ModeRule(Selector(), mode),))
        self.push()
        return f"everything in mode {mode.value}"

    def retagged(self) -> str:
        """Hosts trade tags: they leave and join the groups of others."""
        names = list(self.inventory.hosts)
        tags = [h.tags for h in self.inventory.hosts.values()]
        hosts = {n: replace(self.inventory.hosts[n], tags=t) for n, t in zip(names, reversed(tags), strict=True)}
        self.inventory = replace(self.inventory, hosts=hosts)
        self.push()
        return "tags traded"

    def unit_restarted(self) -> str:
        agent, place = self._agent(), self.random.choice([i for i, p in enumerate(PLACES) if p.mapped])
        added, removed = agent.member.restart(place)
        agent(machine.cgroups, added, removed)
        return f"h{agent.member.index}: {PLACES[place].cgroup} restarted"

    def addresses_changed(self) -> str:
        """Those that the host knows as its own, and where its controllers are, at times itself among them: a port
        that is not probed, so it makes no difference to others."""
        agent = self._agent()
        some = self.random.sample(agent.member.addresses, self.random.randint(0, 3))
        controllers = tuple(Endpoint(a, 7443) for a in self.random.sample(agent.member.addresses, 2))
        facts = replace(agent.member.facts, addresses=frozenset(some), controller=controllers)
        agent(machine.addresses, facts)
        return f"h{agent.member.index}: its own addresses are {some}, the controllers {controllers}"

    def tampered(self) -> str:
        agent = self._agent()
        did = agent(machine.tamper, self.random.randrange(1 << 30))
        found = agent(machine.heal)
        assert found or agent(machine.check) == (), f"{did}: nothing was healed"
        return f"h{agent.member.index}: {did}; healed {found}"

    def killed(self) -> str:
        """With kill -9. Meanwhile a unit may restart, and someone may tamper with the table."""
        agent = self._agent()
        meanwhile = []
        if self.random.random() < 0.5:
            meanwhile.append(agent(machine.tamper, self.random.randrange(1 << 30)))
        stored = agent(machine.turn)
        agent.kill()
        if self.random.random() < 0.5:
            place = self.random.choice([i for i, p in enumerate(PLACES) if p.mapped])
            agent.member.restart(place)
            meanwhile.append(f"{PLACES[place].cgroup} restarted")
        number = agent.member.index
        self.agents[number] = Agent(agent.member)
        self.agents[number](machine.start, agent.member.facts, self.told[number], stored)
        return f"h{number}: killed and resumed, meanwhile {meanwhile}"

    def _agent(self) -> Agent:
        return self.random.choice(self.agents)

    # What must hold.

    def step(self) -> None:
        happens = self.random.choice(STEPS)
        self.said.append(happens(self))
        self.counts[happens.__name__] += 1
        for agent in self.agents:
            wrong = agent(machine.check)
            assert wrong == (), f"h{agent.member.index} is not what a render from scratch gives: {wrong}"
        expectation = Expectation(self.policy, self.inventory, self.told)
        self.ask_sessions(expectation)
        self.probe(expectation)

    def ask_sessions(self, expectation: Expectation) -> None:
        """Sessions that were opened before carry data as long as they are permitted, and no longer."""
        for number in [n for n, (probe, pids) in self.sessions.items() if self._pids(probe) != pids]:
            del self.sessions[number]  # a process of theirs has ended since
        where = {n: (probe.member, probe.place) for n, (probe, _) in self.sessions.items()}
        answered = self.fleet.ask(where, _SHORT)
        for number, (probe, _) in list(self.sessions.items()):
            ends, why = expectation.expected(probe)
            allowed = overall(ends.values()) != "denied"
            lives = answered[number] or (allowed and self.fleet.ask({number: where[number]}, _LONG)[number])
            assert lives is allowed, f"{probe}\n{why}\nits session, opened before, carries data: {lives}"
            self.counts["sessions kept" if allowed else "sessions ended"] += 1
            if not allowed:
                del self.sessions[number]

    def _pids(self, probe: Probe) -> tuple[int, int]:
        members = self.fleet.members
        return members[probe.member].pid(probe.place), members[probe.to_member].pid(probe.to_place)

    def open_session(self, probe: Probe) -> None:
        self.opened += 1
        if self.fleet.open(self.opened, probe.member, probe.place, probe.attempt, _LONG):
            self.sessions[self.opened] = (probe, self._pids(probe))

    def probe(self, expectation: Expectation) -> None:
        probes = draw_probes(self.random, len(self.fleet.members), PROBES_EACH)
        got = self.fleet.attempt(((p.member, p.place, p.attempt) for p in probes), _SHORT)
        for probe in probes:
            ends, why = expectation.expected(probe)
            allowed = overall(ends.values()) != "denied"
            key = (probe.member, probe.place, probe.attempt)
            passed = got[key]
            if not passed and allowed:  # the machine may be slow: only then ask again, with patience
                passed = self.fleet.attempt([key], _LONG)[key]
            assert passed is allowed, f"{probe}\n{why}\nthe network let it through: {passed}"
            self.counts["probes allowed" if allowed else "probes denied"] += 1
            if allowed and probe.port.protocol == "tcp" and len(self.sessions) < SESSIONS:
                self.open_session(probe)


STEPS: tuple[Callable[[Walk], str], ...] = (
    Walk.another_policy,
    Walk.rule_gone,
    Walk.rule_narrowed,
    Walk.rule_without_end,
    Walk.rule_expired,
    Walk.member_came_and_went,
    Walk.modes,
    Walk.retagged,
    Walk.unit_restarted,
    Walk.unit_restarted,
    Walk.addresses_changed,
    Walk.tampered,
    Walk.tampered,
    Walk.killed,
)


def test_a_random_walk(fleet: Fleet) -> None:
    seed = int(os.environ.get("SEGCTL_MACHINE_SEED") or secrets.randbelow(1 << 32))
    deadline = time.monotonic() + SECONDS
    walk = Walk(fleet, seed)
    steps = 0
    while time.monotonic() < deadline:
        steps += 1
        try:
            walk.step()
        except AssertionError as error:
            last = "\n".join(walk.said[-8:])
            error.add_note(f"SEGCTL_MACHINE_SEED={seed}, step {steps}; the last that happened:\n{last}\n{walk.policy}")
            raise
    print(f"seed {seed}: {steps} steps, {dict(walk.counts)}")
    assert walk.counts["probes allowed"] > 0 < walk.counts["probes denied"], f"seed {seed}: {walk.counts}"
