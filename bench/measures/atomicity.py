"""Policy changes under traffic: what is allowed always passes, what is denied never does, sessions do not stall."""

from __future__ import annotations

import time

from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import Ruleset
from segctl_agent.render import render

from bench.enforced import put_in_force
from bench.policies import OTHER_UNIT, SERVER, SERVER_UNIT, make_units, sandbox_facts, unit_path
from bench.probing import ProbeCounts, Prober
from bench.rows import Goal, Row
from bench.walk import policies
from bench.wire import Wire

_READ_BACK_EVERY = 50
_SEED = 20261122


def measure(quick: bool) -> list[Row]:
    """Rows of wrong verdicts; the goal is none, over a million probes and two thousand changes."""
    wanted_probes, wanted_changes, seconds = (20_000, 40, 20.0) if quick else (1_000_000, 2_000, 200.0)
    make_units((SERVER_UNIT, OTHER_UNIT))
    with Wire() as wire:
        walk = policies(_SEED)
        first, _ = next(walk)
        now = put_in_force(wire.server, first, SERVER)
        with wire.server.entered():
            kernel = NetlinkKernel()
        facts = sandbox_facts(SERVER)
        changes, epoch, deadline = 0, 1, time.monotonic() + seconds
        with Prober(wire, unit_path(SERVER_UNIT), unit_path(OTHER_UNIT)) as prober:
            while prober.running and (prober.probes < wanted_probes or changes < wanted_changes):
                if time.monotonic() > deadline:
                    break
                policy, narrower = next(walk)
                epoch = epoch % 4095 + 1 if narrower else epoch
                wanted = render(policy, facts, epoch)
                batch = plan(now, wanted)
                if not batch:
                    continue
                kernel.apply(batch)
                now = wanted
                changes += 1
                if changes % _READ_BACK_EVERY == 0:
                    _check(kernel, wanted, changes)
            counts, said = prober.finish()
        _check(kernel, now, changes)
        kernel.close()
    if counts.probes < wanted_probes or changes < wanted_changes:
        raise RuntimeError(
            f"only {counts.probes} probes and {changes} changes in {seconds:g} s: this machine is too slow"
        )
    return _rows(counts, changes, epoch, said)


def _check(kernel: NetlinkKernel, wanted: Ruleset, changes: int) -> None:
    if kernel.read() != wanted:
        raise RuntimeError(f"after {changes} changes the kernel does not hold what was applied")


def _rows(counts: ProbeCounts, changes: int, epoch: int, said: str) -> list[Row]:
    how = (
        f"{counts.allowed} allowed and {counts.denied} denied connections with listeners, in and out and to the wrong "
        f"process, during {changes} policy changes, {epoch} epochs; a retransmit counts as a drop"
    )
    if said:
        how = f"{how}; {said.splitlines()[0]}"
    none = Goal("==", 0)
    return [
        Row("atomicity: wrongly allowed", counts.wrongly_allowed, "connections", how, none),
        Row("atomicity: wrongly dropped", counts.wrongly_dropped, "connections", how, none),
        Row("atomicity: stalls of live sessions", counts.stalled, "of 2", f"{counts.exchanges} exchanges; {how}", none),
        Row("atomicity: probes", counts.probes, "connections", how, Goal(">=", 1_000_000)),
        Row("atomicity: policy changes", changes, "changes", how, Goal(">=", 2_000)),
    ]
