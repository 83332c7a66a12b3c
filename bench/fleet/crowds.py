"""All simulated agents, spread over a few processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

from segctl.model.inventory import Address

from bench.fleet.crowd import Churn, Crowd
from bench.fleet.identities import Member
from bench.fleet.limits import raise_file_limit
from bench.fleet.orders import Orders, call_all, processes
from bench.fleet.reports import Load

PROCESSES = 2
MOST_OTHERS = 1000
"""Addresses that the reports of agents speak of."""
PATIENCE = 300.0
"""Seconds until an order counts as not carried out."""


class Crowds:
    """`with crowds(members) as fleet: fleet.connect()`."""

    def __init__(self, processes: Sequence[Orders], sizes: Sequence[int]) -> None:
        self._processes, self._sizes = processes, sizes

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(process.pid for process in self._processes)

    @property
    def size(self) -> int:
        return sum(self._sizes)

    def connect(self, seconds: float = PATIENCE) -> float:
        """Start every agent; how many seconds it took until all had a session. Raises TimeoutError."""
        self.totals()  # answered once every agent is made: that is no part of connecting
        started = monotonic()
        call_all(self._processes, "start")
        return self.connected_after(started, 0, seconds)

    def connected_after(self, since: float, sessions: int, seconds: float = PATIENCE) -> float:
        """Wait until all are connected and there were more than `sessions` in all; seconds from `since` to the last."""
        deadline = monotonic() + seconds
        while True:
            totals = self.totals()
            if totals["connected"] == self.size and totals["sessions"] >= sessions + self.size:
                return float(totals["last_joined"] - since)
            if monotonic() > deadline:
                raise TimeoutError(
                    f"{totals['connected']} of {self.size} agents connected within {seconds:g} s: {totals}"
                )
            sleep(0.05)

    def totals(self) -> dict[str, Any]:
        """Sums over all processes: see Tally."""
        found: dict[str, Any] = {"failures": {}}
        for part in call_all(self._processes, "totals"):
            for code, count in part.pop("failures").items():
                found["failures"][code] = found["failures"].get(code, 0) + count
            last = max(found.get("last_joined", 0.0), part.pop("last_joined"))
            found |= {name: found.get(name, 0) + value for name, value in part.items()}
            found["last_joined"] = last
        return found

    def settle(self) -> None:
        call_all(self._processes, "settle")

    def expect(self, stored: bool = False) -> None:
        """Begin to watch for one acknowledgement of every agent."""
        for process, size in zip(self._processes, self._sizes, strict=True):
            process.call("expect", wanted=size, stored=stored)

    def expected(self, seconds: float = PATIENCE) -> list[float]:
        """When each agent acknowledged (monotonic), ascending. Raises TimeoutError when one did not."""
        times = sorted(at for part in call_all(self._processes, "expected", seconds=seconds) for at in part)
        if len(times) < self.size:
            raise TimeoutError(f"{len(times)} of {self.size} agents acknowledged within {seconds:g} s")
        return times

    def claim(self, more: Mapping[str, Sequence[Address]]) -> None:
        call_all(self._processes, "claim", more={host: list(addresses) for host, addresses in more.items()})

    def churn(self, wanted: Churn) -> None:
        """The rates are those of the whole fleet."""
        parts = len(self._processes)
        call_all(self._processes, "churn", wanted=Churn(wanted.reconnects / parts, wanted.moves / parts))

    def reported(self) -> list[tuple[str, str, int, int]]:
        """See Crowd.reported."""
        return [one for part in call_all(self._processes, "reported") for one in part]


@contextmanager
def crowds(
    members: Sequence[Member],
    load: Load | None = None,
    *,
    count: int = PROCESSES,
    verify: bool = False,
    steady: bool = False,
) -> Iterator[Crowds]:
    """In `count` processes. `steady`: an agent counts every session as a long one, so that a measurement which ends
    many does not wait for their backoff. Raises RuntimeError when this user may not open as many connections."""
    count = min(count, len(members))
    raise_file_limit(-(-len(members) // count))
    others = tuple(m.addresses[0] for m in members[:MOST_OTHERS])
    parts = [members[i::count] for i in range(count)]
    with processes(Crowd, [(part, load or Load(), others, verify, steady) for part in parts]) as orders:
        yield Crowds(orders, [len(part) for part in parts])
