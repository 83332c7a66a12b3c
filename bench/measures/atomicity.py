"""Updates under traffic: what is allowed always passes, what is denied never does, sessions do not stall."""

from __future__ import annotations

import os
import time
from collections import Counter

from segctl_agent.nft.kernel import NetlinkKernel

from bench.policies import OTHER_UNIT, SERVER, SERVER_UNIT, make_units, sandbox_facts, unit_path
from bench.probing import ProbeCounts, Prober, Wrong
from bench.rows import Goal, Row
from bench.updates import Updates, blamed
from bench.wire import Wire

_SEED = 20261122
_PROBE_CPU = 0
_PROBES, _UPDATES = 2_000_000, 4_000


def measure(quick: bool) -> list[Row]:
    """Rows of wrong verdicts; the goal is none, over two million probes and four thousand updates of every kind."""
    probes, updates, seconds = (20_000, 45, 20.0) if quick else (_PROBES, _UPDATES, 600.0)
    make_units((SERVER_UNIT, OTHER_UNIT))
    os.sched_setaffinity(0, os.sched_getaffinity(0) - {_PROBE_CPU} or {_PROBE_CPU})
    with Wire() as wire:
        with wire.server.entered():
            kernel = NetlinkKernel()
        host = Updates(kernel, sandbox_facts(SERVER), wire.server, _SEED)
        deadline = time.monotonic() + seconds
        with Prober(wire, unit_path(SERVER_UNIT), unit_path(OTHER_UNIT), _PROBE_CPU) as prober:
            while prober.running and (prober.probes < probes or len(host.log) < updates):
                if time.monotonic() > deadline:
                    break
                # In step: as many updates for each probe at the end as at the beginning.
                if len(host.log) * probes <= (prober.probes + probes // 50) * updates:
                    host.next()
                else:
                    time.sleep(0.001)
            counts, wrong = prober.finish()
        kernel.close()
    if not quick and (counts.probes < probes or len(host.log) < updates):
        raise RuntimeError(
            f"only {counts.probes} probes and {len(host.log)} updates in {seconds:g} s: the machine is too slow"
        )
    return _rows(counts, host, wrong, quick)


def _rows(counts: ProbeCounts, host: Updates, wrong: list[Wrong], quick: bool) -> list[Row]:
    how = (
        f"{counts.allowed} allowed and {counts.denied} denied connections with listeners, in and out and to the wrong "
        f"process, during {len(host.log)} updates by the agent's Enforcer ({host.counted}); a retransmit counts as a "
        "drop"
    )
    if wrong:
        kinds = Counter(f"{w.what} during {' and '.join(blamed(w, host.log))}" for w in wrong)
        how += "; " + ", ".join(f"{count} x {what}" for what, count in kinds.most_common(5))
    none = Goal("==", 0)
    return [
        Row("atomicity: wrongly allowed", counts.wrongly_allowed, "connections", how, none),
        Row("atomicity: wrongly dropped", counts.wrongly_dropped, "connections", how, none),
        Row("atomicity: stalls of live sessions", counts.stalled, "of 2", f"{counts.exchanges} exchanges; {how}", none),
        Row("atomicity: probes", counts.probes, "connections", how, None if quick else Goal(">=", _PROBES)),
        Row("atomicity: updates", len(host.log), "updates", host.counted, None if quick else Goal(">=", _UPDATES)),
    ]
