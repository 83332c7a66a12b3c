"""A host's agent in a process of its own, for random walks: its enforcer on the real kernel, and what can befall both.

The functions here run in that process, called through `Agent`; each answers when the kernel has been changed.
"""

from __future__ import annotations

import os
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from multiprocessing.connection import Connection
from random import Random
from typing import Any

from segctl.model.hostpolicy import Entry, HostPolicy
from segctl_agent.decisions import Turn
from segctl_agent.drift import differences
from segctl_agent.enforcer import Enforcer
from segctl_agent.facts.values import HostFacts
from segctl_agent.nft import statements as s
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.messages import encode
from segctl_agent.nft.netlink import Netlink
from segctl_agent.nft.operations import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    Batch,
    DeleteElements,
    DeleteTable,
    FlushChain,
    FlushSet,
    Operation,
)
from segctl_agent.nft.ruleset import ACCEPT, TABLE, KeyType, NftSet, Rule, SetSpec
from segctl_agent.render import render

from tests.netns.fleet import Member

USERS = {"www-data": 33, "group:www-data": 33}
_BY_TEXT = (
    "flush ruleset",
    "insert rule inet segctl input accept",
    "insert rule inet segctl output accept",
    "chain inet segctl input { policy accept; }",
    "add table inet segctl { flags dormant; }",
    "add counter inet segctl junk",
    "add chain inet segctl junk { type filter hook input priority -5; policy drop; }",
)


def resolve(names: Iterable[str]) -> Mapping[str, int]:
    """As `facts.users` does, for the names that Debian gives these numbers. Numbers stand for themselves."""
    digits = {n: n.removeprefix("group:") for n in names}
    return {n: int(d) for n, d in digits.items() if d.isdigit()} | {n: USERS[n] for n in digits if n in USERS}


@dataclass(slots=True)
class Host:
    """What the agent's process holds."""

    kernel: NetlinkKernel = field(default_factory=NetlinkKernel)
    enforcer: Enforcer | None = None


def start(host: Host, facts: HostFacts, stored: HostPolicy | None, turn: Turn = (0, 0)) -> None:
    """The agent has just started, with what it had stored."""
    host.enforcer = enforcer = Enforcer(host.kernel, resolve, 0)
    enforcer.cgroups_changed(facts.cgroups, {})
    enforcer.addresses_changed(facts.addresses)
    if stored is not None:
        enforcer.resume(stored, turn)


def turn(host: Host) -> Turn:
    """What an agent stores beside its policy."""
    return _of(host).decisions.turn


def put(host: Host, policy: HostPolicy) -> None:
    _of(host).put(policy)


def expiring(host: Host, policy: HostPolicy, rule: str, seconds: float) -> HostPolicy:
    """Puts `policy` in force with an end of what `rule` permits: the next full second after `seconds` from now."""
    until = int(time.time() + seconds) + 1

    def ending(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        return tuple(replace(e, until=until) if e.rule == rule else e for e in entries)

    workloads = tuple(replace(w, ingress=ending(w.ingress), egress=ending(w.egress)) for w in policy.workloads)
    timed = replace(policy, workloads=workloads)
    _of(host).put(timed)
    return timed


def member_comes_and_goes(host: Host, seed: int) -> tuple[str, ...]:
    """One address more in a group, and less again. Answers what was wrong in between."""
    enforcer, random = _of(host), Random(seed)
    policy = enforcer.policy
    if policy is None or not policy.groups:
        return ()
    group = random.choice(policy.groups).name
    bits, base = random.choice(((16, IPv4Address("10.99.0.0")), (64, IPv6Address("fd99::"))))
    address = base + random.randrange(1, 1 << bits)
    enforcer.members_changed(group, (address,), ())
    wrong = check(host)
    enforcer.members_changed(group, (), (address,))
    assert enforcer.policy == policy, "a member that came and went leaves the policy as it was"
    return wrong


def cgroups(host: Host, added: Mapping[str, int], removed: Mapping[str, int]) -> None:
    _of(host).cgroups_changed(added, removed)


def addresses(host: Host, facts: HostFacts) -> None:
    _of(host).addresses_changed(facts.addresses)
    _of(host).controllers_changed(facts.controller)


def tamper(host: Host, seed: int) -> str:
    """Someone with root changes our table, in one of every way there is. Answers what was done."""
    random = Random(seed)
    if random.random() < 0.4:
        text = random.choice(_BY_TEXT)
        subprocess.run(["nft", text], check=True, capture_output=True)
        return text
    held = host.kernel.read()
    assert held is not None
    sets = sorted(name for name, held_set in held.sets.items() if not held_set.spec.dynamic)
    filled = [name for name in sets if held.sets[name].elements]
    chains = sorted(held.chains)
    choices: list[Operation] = [
        DeleteTable(),
        FlushChain(random.choice(chains)),
        AddRule(random.choice(chains), Rule.of(s.verdict(ACCEPT))),
        AddChain("junk"),
        AddSet("junk", SetSpec((KeyType.IPV4_ADDR,))),
    ]
    if filled:
        name = random.choice(filled)
        choices += [FlushSet(name, held.sets[name].spec), _less(name, held.sets[name], random)]
        if not held.sets[name].spec.interval:
            choices.append(_more(name, held.sets[name], random))
    chosen = random.choice(choices)
    with Netlink() as someone:
        someone.batch(encode(Batch((chosen,)), TABLE))
    return repr(chosen)[:300]


def _less(name: str, held: NftSet, random: Random) -> Operation:
    return DeleteElements(name, held.spec, (random.choice(sorted(held.elements)),))


def _more(name: str, held: NftSet, random: Random) -> Operation:
    """Another key, with the data of one that is there."""
    data = random.choice(list(held.elements.values()))
    return AddElements(name, held.spec, {random.randbytes(held.spec.key_length): data})


def heal(host: Host) -> tuple[str, ...]:
    return _of(host).heal()


def check(host: Host) -> tuple[str, ...]:
    """What the kernel holds against a render from scratch; empty when they are the same."""
    enforcer = _of(host)
    if enforcer.policy is None:
        return ()
    wanted = render(enforcer.policy, enforcer.facts, enforcer.decisions, enforcer.layout)
    held = host.kernel.read()
    if held == wanted:
        return ()
    return ("the table is gone",) if held is None else differences(held, wanted) or ("a difference without a name",)


def _of(host: Host) -> Enforcer:
    assert host.enforcer is not None
    return host.enforcer


class Agent:
    """The process. It can be killed and started anew; the kernel keeps what it holds."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self._commands, self._pid = member.fork("", _serve)
        assert self._commands.recv() == "ready"

    def __call__(self, function: Callable[..., Any], *arguments: object, seconds: float = 30) -> Any:
        """Runs it there. AssertionError with its traceback when it failed."""
        self._commands.send((function, arguments))
        assert self._commands.poll(seconds), f"{function.__name__} did not end within {seconds:g} s"
        worked, answer = self._commands.recv()
        assert worked, f"{function.__name__} failed in the agent:\n{answer}"
        return answer

    def kill(self) -> None:
        self.member.end(self._pid)
        self._commands.close()


def _serve(commands: Connection) -> None:
    host = Host()
    commands.send("ready")
    while True:
        try:
            function, arguments = commands.recv()
        except EOFError:
            os._exit(0)
        try:
            commands.send((True, function(host, *arguments)))
        except Exception:  # noqa: BLE001 - whatever it is, the test shows it
            commands.send((False, traceback.format_exc()))
