"""Policy changes under traffic: what is allowed always passes, what is denied never does, sessions do not stall."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from segctl.model.hostpolicy import HostPolicy
from segctl_agent.enforcer import Enforcer
from segctl_agent.nft.kernel import NetlinkKernel

from bench.policies import OTHER_UNIT, SERVER, SERVER_UNIT, make_units, sandbox_facts, unit_path
from bench.probing import ProbeCounts, Prober
from bench.rows import Goal, Row
from bench.walk import policies
from bench.wire import Wire

_SEED = 20261122
_PROBE_CPU = 0
_CGROUPS = tuple({f"system.slice/{name}-job{i}.service": 1 << 40 | i} for i, name in enumerate("amtz" * 4))
"""Units that come and go meanwhile. Their ids are of no real cgroup: no socket has them."""


def measure(quick: bool) -> list[Row]:
    """Rows of wrong verdicts; the goal is none, over a million probes and two thousand changes."""
    wanted_probes, wanted_changes, seconds = (20_000, 40, 20.0) if quick else (1_000_000, 2_000, 300.0)
    make_units((SERVER_UNIT, OTHER_UNIT))
    os.sched_setaffinity(0, os.sched_getaffinity(0) - {_PROBE_CPU} or {_PROBE_CPU})
    with Wire() as wire, _enforcer(wire) as enforcer:
        walk, changes, deadline = policies(_SEED), 0, time.monotonic() + seconds
        enforcer.put(next(walk))
        with Prober(wire, unit_path(SERVER_UNIT), unit_path(OTHER_UNIT), _PROBE_CPU) as prober:
            while prober.running and (prober.probes < wanted_probes or changes < wanted_changes):
                if time.monotonic() > deadline:
                    break
                changes += _change(enforcer, next(walk), changes)
            counts, said = prober.finish()
    if not quick and (counts.probes < wanted_probes or changes < wanted_changes):
        raise RuntimeError(
            f"only {counts.probes} probes and {changes} changes in {seconds:g} s: the machine is too slow"
        )
    return _rows(counts, changes, said, quick)


@contextmanager
def _enforcer(wire: Wire) -> Iterator[Enforcer]:
    """The agent's own, on the server's kernel."""
    with wire.server.entered():
        kernel = NetlinkKernel()
    facts = sandbox_facts(SERVER)
    enforcer = Enforcer(
        kernel, lambda names: {n: u for n, u in facts.users.items() if n in set(names)}, facts.agent_uid
    )
    enforcer.cgroups_changed(facts.cgroups, {})
    enforcer.addresses_changed(facts.addresses)
    enforcer.controllers_changed(facts.controller)
    try:
        yield enforcer
    finally:
        kernel.close()


def _change(enforcer: Enforcer, policy: HostPolicy, number: int) -> bool:
    """Puts the policy in force, which proves it by reading it back. True when that changed the kernel's rules."""
    before = enforcer.wanted
    enforcer.put(policy)
    changed = enforcer.wanted != before
    cgroup = _CGROUPS[number % len(_CGROUPS)]
    known = cgroup.keys() <= enforcer.facts.cgroups.keys()
    enforcer.cgroups_changed({} if known else cgroup, cgroup if known else {})
    return changed


def _rows(counts: ProbeCounts, changes: int, said: str, quick: bool) -> list[Row]:
    how = (
        f"{counts.allowed} allowed and {counts.denied} denied connections with listeners, in and out and to the wrong "
        f"process, during {changes} policy changes by the agent's Enforcer; a retransmit counts as a drop"
    )
    if said:
        how = f"{how}; {said.splitlines()[0]}"
    none = Goal("==", 0)
    return [
        Row("atomicity: wrongly allowed", counts.wrongly_allowed, "connections", how, none),
        Row("atomicity: wrongly dropped", counts.wrongly_dropped, "connections", how, none),
        Row("atomicity: stalls of live sessions", counts.stalled, "of 2", f"{counts.exchanges} exchanges; {how}", none),
        Row("atomicity: probes", counts.probes, "connections", how, None if quick else Goal(">=", 1_000_000)),
        Row("atomicity: policy changes", changes, "changes", how, None if quick else Goal(">=", 2_000)),
    ]
