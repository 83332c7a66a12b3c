"""Everything that changes what the kernel holds, one update of each kind at a time, beside the probes.

No update changes what the probes of `native/probes.c` may do: neither the policies of the walk, nor what is tampered
with here. So whatever the probes see otherwise, an update has done.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from random import Random

from segctl_agent.enforcer import Enforcer
from segctl_agent.facts.values import HostFacts
from segctl_agent.nft.kernel import NetlinkKernel

from bench.enforced import new_enforcer
from bench.policies import unit_path
from bench.probing import Wrong
from bench.sandbox import CGROUP_MOUNT, NetworkNamespace, run_nft
from bench.walk import MODE, NARROW, STRANGERS, WIDEN, Walk

_UNITS = tuple(unit_path(f"{letter}-job{i}.service") for letter in "amtz" for i in range(2))
_TAMPER = (
    "add chain inet segctl junk",
    "add set inet segctl junk { type ipv4_addr; }",
    "add counter inet segctl junk",
    "insert rule inet segctl input ip saddr 203.0.113.77 accept",
    "add rule inet segctl output ip daddr 203.0.113.77 drop",
    "add chain inet segctl junk { type filter hook input priority filter + 5; policy accept; }",
)
"""None of it is about an address that the probes use."""


@dataclass(frozen=True, slots=True)
class Done:
    """One update, in nanoseconds of the monotonic clock."""

    kind: str
    began: int
    ended: int


class Updates:
    """The host under test: `enforcer` is the agent of the moment, others came before it. Repeats by its seed."""

    def __init__(self, kernel: NetlinkKernel, facts: HostFacts, namespace: NetworkNamespace, seed: int) -> None:
        self._kernel, self._facts, self._namespace = kernel, facts, namespace
        self._random = Random(seed)
        self._walk = Walk(seed)
        self._cgroups = dict(facts.cgroups)
        self.log: list[Done] = []
        self.enforcer = new_enforcer(kernel, facts)
        self.enforcer.put(self._walk.policy)

    def next(self) -> None:
        """One more, of the kinds in turn. RuntimeError when the update did nothing: it would prove nothing."""
        kind, work = _KINDS[len(self.log) % len(_KINDS)]
        began = time.monotonic_ns()
        work(self)
        self.log.append(Done(kind, began, time.monotonic_ns()))

    @property
    def counted(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(d.kind for d in self.log).items()))

    def change(self) -> None:
        self.enforcer.put(self._walk.step())

    def narrow(self) -> None:
        self.enforcer.put(self._walk.step(*NARROW))

    def widen(self) -> None:
        self.enforcer.put(self._walk.step(*WIDEN))

    def mode(self) -> None:
        self.enforcer.put(self._walk.step(*MODE))

    def join(self) -> None:
        _, address = self._walk.join()
        self._members((address,), ())

    def leave(self) -> None:
        _, address = self._walk.leave()
        self._members((), (address,))

    def _members(self, added: tuple[IPv4Address, ...], removed: tuple[IPv4Address, ...]) -> None:
        self.enforcer.members_changed(STRANGERS, added, removed)

    def restart_unit(self) -> None:
        """Its cgroup goes, if it was there, and another one of its name comes."""
        path = self._random.choice(_UNITS)
        removed = {path: self._cgroups.pop(path)} if path in self._cgroups else {}
        directory = CGROUP_MOUNT / path
        if removed:
            directory.rmdir()
        directory.mkdir()
        self._cgroups[path] = directory.stat().st_ino
        self.enforcer.cgroups_changed({path: self._cgroups[path]}, removed)

    def tamper(self) -> None:
        with self._namespace.entered():
            run_nft(self._random.choice(_TAMPER) + "\n")
        if not self.enforcer.heal():
            raise RuntimeError("the enforcer found nothing to heal in a table that was tampered with")

    def restart_agent(self) -> None:
        """Killed, and started again from what it stored: the policy as it is on the disk."""
        before: Enforcer = self.enforcer
        if before.policy is None:
            raise RuntimeError("an agent without a policy has nothing to resume")
        self.enforcer = new_enforcer(self._kernel, replace(self._facts, cgroups=self._cgroups))
        self.enforcer.resume(before.policy, before.decisions.turn)


_KINDS: tuple[tuple[str, Callable[[Updates], None]], ...] = (
    ("policy changes", Updates.change),
    ("members added", Updates.join),
    ("rules widened", Updates.widen),
    ("unit restarts", Updates.restart_unit),
    ("members removed", Updates.leave),
    ("rules narrowed", Updates.narrow),
    ("tamperings healed", Updates.tamper),
    ("mode changes", Updates.mode),
    ("agent restarts", Updates.restart_agent),
)


def blamed(wrong: Wrong, log: Sequence[Done]) -> tuple[str, ...]:
    """The kinds of the updates that were under way at any time of a wrong probe; the last one before it when none was:
    what it left behind was wrong."""
    during = [d.kind for d in log if d.began <= wrong.until and d.ended >= wrong.since]
    if not during and log:
        last = bisect_left([d.ended for d in log], wrong.since)
        during = [f"after {log[max(0, last - 1)].kind}"]
    return tuple(sorted(set(during)))
