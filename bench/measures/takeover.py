"""Takeovers of the table under traffic: the table is replaced by an owned one, and no packet goes unjudged."""

from __future__ import annotations

import os
import time

from segctl_agent.nft.handover import handover
from segctl_agent.nft.kernel import GRACE_SECONDS, NetlinkKernel
from segctl_agent.nft.netlink import Netlink
from segctl_agent.nft.ruleset import Ruleset

from bench.enforced import put_in_force
from bench.policies import OTHER_UNIT, SERVER, SERVER_UNIT, make_units, unit_path
from bench.probing import ProbeCounts, Prober, Wrong
from bench.rows import Goal, Row
from bench.walk import policies
from bench.wire import Wire

_SEED = 20261128
_PROBE_CPU = 0


def measure(quick: bool) -> list[Row]:
    """Rows of wrong verdicts; the goal is none."""
    wanted, seconds = (10, 10.0) if quick else (300, 60.0)
    make_units((SERVER_UNIT, OTHER_UNIT))
    os.sched_setaffinity(0, os.sched_getaffinity(0) - {_PROBE_CPU} or {_PROBE_CPU})
    with Wire() as wire:
        put_in_force(wire.server, next(policies(_SEED)), SERVER)
        with wire.server.entered():
            kernel, netlink = NetlinkKernel(), Netlink()
        held = kernel.read()
        if held is None:
            raise RuntimeError("no table is in force: see bench/enforced.py")
        with netlink, Prober(wire, unit_path(SERVER_UNIT), unit_path(OTHER_UNIT), _PROBE_CPU) as prober:
            done, deadline = 0, time.monotonic() + seconds
            while prober.running and done < wanted and time.monotonic() < deadline:
                _take_over(netlink, held)
                done += 1
            counts, wrong = prober.finish()
        if kernel.read() != held:
            raise RuntimeError("after the takeovers the kernel holds another table")
        kernel.close()
    return _rows(counts, done, wrong)


def _take_over(netlink: Netlink, held: Ruleset) -> None:
    """As NetlinkKernel.take_over does, but also of a table that has an owner."""
    for messages in handover(held, leftover=False):
        netlink.batch(messages)
        time.sleep(GRACE_SECONDS)


def _rows(counts: ProbeCounts, done: int, wrong: list[Wrong]) -> list[Row]:
    how = f"{counts.allowed} allowed and {counts.denied} denied connections with listeners during {done} takeovers"
    if wrong:
        how = f"{how}; {wrong[0].what}"
    none = Goal("==", 0)
    return [
        Row("takeover: wrongly allowed", counts.wrongly_allowed, "connections", how, none),
        Row("takeover: wrongly dropped", counts.wrongly_dropped, "connections", how, none),
        Row("takeover: probes", counts.probes, "connections", how),
    ]
