"""A host's agent in a process of its own, for random walks: its enforcer on the real kernel, and what can befall both.

The functions here run in that process, called through `Agent`; each answers when the kernel has been changed.
"""

from __future__ import annotations

import os
import subprocess
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from random import Random
from typing import Any

from segctl.model.hostpolicy import HostPolicy
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

USERS = {"www-data": 33}
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
    return {n: USERS[n] for n in names if n in USERS}


@dataclass(slots=True)
class Host:
    """What the agent's process holds."""

    kernel: NetlinkKernel = field(default_factory=NetlinkKernel)
    enforcer: Enforcer | None = None


def start(host: Host, facts: HostFacts, stored: HostPolicy | None) -> None:
    """The agent has just started, with what it had stored."""
    host.enforcer = enforcer = Enforcer(host.kernel, resolve, 0)
    enforcer.cgroups_changed(facts.cgroups, {})
    enforcer.addresses_changed(facts.addresses)
    if stored is not None:
        enforcer.resume(stored, 1)


def put(host: Host, policy: HostPolicy) -> None:
    _of(host).put(policy)


def cgroups(host: Host, added: Mapping[str, int], removed: Mapping[str, int]) -> None:
    _of(host).cgroups_changed(added, removed)


def addresses(host: Host, facts: HostFacts) -> None:
    _of(host).addresses_changed(facts.addresses)


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
        choices += [FlushSet(name), _less(name, held.sets[name], random)]
    if plain := [n for n in sets if not held.sets[n].spec.verdicts and not held.sets[n].spec.interval]:
        choices.append(_more(random.choice(plain), held.sets, random))
    chosen = random.choice(choices)
    with Netlink() as someone:
        someone.batch(encode(Batch((chosen,)), TABLE))
    return repr(chosen)[:300]


def _less(name: str, held: NftSet, random: Random) -> Operation:
    return DeleteElements(name, held.spec, (random.choice(sorted(held.elements)),))


def _more(name: str, sets: Mapping[str, NftSet], random: Random) -> Operation:
    spec = sets[name].spec
    return AddElements(name, spec, {random.randbytes(spec.key_length): None})


def heal(host: Host) -> tuple[str, ...]:
    return _of(host).heal()


def check(host: Host) -> tuple[str, ...]:
    """What the kernel holds against a render from scratch; empty when they are the same."""
    enforcer = _of(host)
    if enforcer.policy is None:
        return ()
    wanted = render(enforcer.policy, replace(enforcer.facts, users=USERS), enforcer.epoch)
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
