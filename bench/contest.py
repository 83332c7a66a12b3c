"""Runs configurations against each other with `native/connections.c` and keeps their times, round by round."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.native_build import native_program
from bench.sandbox import CGROUP_MOUNT
from bench.statistic import Spread, paired_ratio
from bench.wire import Wire

DISTINCT_CLIENTS = 1000


@dataclass(frozen=True, slots=True)
class Contestant:
    """A configuration that stays loaded on `wire`. Clients are drawn from DISTINCT_CLIENTS addresses spread over the
    first `entries` client addresses; the cgroups are paths below the sandbox's root."""

    name: str
    wire: Wire
    entries: int = DISTINCT_CLIENTS
    client_cgroup: str = "init.scope"
    server_cgroup: str = "init.scope"
    nflog_group: int | None = None

    def argument(self) -> str:
        group = -1 if self.nflog_group is None else self.nflog_group
        step = max(1, self.entries // DISTINCT_CLIENTS)
        cgroups = (CGROUP_MOUNT / path for path in (self.client_cgroup, self.server_cgroup))
        fields = (self.name, self.wire.client.path, self.wire.server.path, DISTINCT_CLIENTS, step, *cgroups, group)
        return ",".join(str(f) for f in fields)


@dataclass(frozen=True, slots=True)
class Times:
    """Nanoseconds of the median operation of each round, by contestant, all of the same length."""

    by_name: Mapping[str, tuple[float, ...]]

    def rate_ratio(self, name: str, base: str) -> Spread:
        """Operations a second of `name` over those of `base`, each round by itself."""
        return paired_ratio(self.by_name[base], self.by_name[name])

    def added(self, name: str, base: str) -> Spread:
        """Microseconds that `name` takes beyond `base`."""
        pairs = zip(self.by_name[name], self.by_name[base], strict=True)
        differences = [(a - b) / 1000 for a, b in pairs]
        ordered = sorted(differences)
        last = len(ordered) - 1
        return Spread(ordered[last // 10], ordered[last // 2], ordered[last * 9 // 10])


def run_contest(contestants: Sequence[Contestant], slice_ms: int, rounds: int, cpu: int = 0) -> Times:
    """Lets the contestants take turns; RuntimeError when a connection failed: such a rate means nothing."""
    names = [c.name for c in contestants]
    if len(set(names)) != len(names):
        raise ValueError(f"two contestants of one name: {names}")
    command = [str(native_program("connections")), str(slice_ms), str(rounds), str(cpu)]
    limit = 30 + 3 * slice_ms * (rounds + 1) * len(contestants) / 1000
    done = subprocess.run(
        [*command, *(c.argument() for c in contestants)], text=True, capture_output=True, check=False, timeout=limit
    )
    if done.returncode:
        raise RuntimeError(f"connections stopped with {done.returncode}: {done.stderr.strip()[:600]}")
    return parse_times(done.stdout)


def parse_times(text: str) -> Times:
    """The lines of `connections`: ROUND NAME NANOSECONDS OPERATIONS FAILED."""
    times: dict[str, list[float]] = defaultdict(list)
    for line in text.splitlines():
        _, name, nanoseconds, operations, failed = line.split()
        if int(failed):
            raise RuntimeError(f"{failed} of {operations} connections failed under {name}: its rules deny them")
        times[name].append(float(nanoseconds))
    return Times({name: tuple(values) for name, values in times.items()})
