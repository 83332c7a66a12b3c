"""20 KB to the last of 1,000 agents: a push as an operator makes it, and a change of membership fanned out.

The yardstick for the CPU is the least that a grpc.aio server can do (bench/fleet/bare.py), with the same agents and as
many bytes, in the same run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from time import monotonic

from bench.fleet.bare import bare_server
from bench.fleet.crowds import Crowds, crowds
from bench.fleet.lag import delay_ms, reading
from bench.fleet.operator import Pushed
from bench.fleet.orders import Orders
from bench.fleet.policies import bulk_policy, fleet_hosts
from bench.fleet.process import cpu_seconds
from bench.fleet.stage import Cost, Stage, connected, idle_rate, more_addresses, new_controller, quiet
from bench.rows import Goal, Row

SECONDS = 1200.0
AGENTS, QUICK_AGENTS = 1_000, 50
ROUNDS, QUICK_ROUNDS = 10, 2
RULES_BYTES = 16_000
"""With the members of the groups and the rest, a host policy has 20 KB."""
MEMBERS_BYTES, FEW_RULES_BYTES = 20_000, 200
_TIME, _CPU, _LAG = Goal("<=", 150), Goal("<=", 1.3), Goal("<=", 20)


@dataclass(slots=True)
class Series:
    """Milliseconds until the last agent had acknowledged, the server's CPU of all rounds in seconds, and the bytes that
    an agent received in a round."""

    agents: int
    cost: Cost
    ms: list[float] = field(default_factory=list)
    received: int = 0
    agents_seconds: float = 0.0
    """CPU of the simulated agents, where it was counted."""

    @property
    def rounds(self) -> int:
        return len(self.ms)

    @property
    def cpu_us(self) -> float:
        """Of one agent in one round."""
        return self.cost.seconds * 1e6 / self.agents / self.rounds

    @property
    def bytes(self) -> int:
        return self.received // self.agents // self.rounds


def measure(quick: bool) -> list[Row]:
    agents, rounds = (QUICK_AGENTS, QUICK_ROUNDS) if quick else (AGENTS, ROUNDS)
    with new_controller(fleet_hosts(agents)) as (controller, members):
        with connected(controller, members) as stage:
            before = reading(controller.metrics())
            pushes, series = _push(stage, rounds)
            delay = delay_ms(before, reading(controller.metrics()), 0.99)
            leg = _fan_out(stage, rounds)
        controller.stop()
        with (
            bare_server(controller.state) as (server, address),
            crowds([member.at([address]) for member in members]) as fleet,
        ):
            fleet.connect()
            bare = _bare(server, fleet, leg.bytes, rounds)
    how = f"{rounds} times, {agents} agents with a TLS connection each, in two processes on the same cores"
    return [*_push_rows(pushes, series, bare, delay, how), *_leg_rows(leg, bare, how)]


def _push(stage: Stage, rounds: int) -> tuple[list[Pushed], Series]:
    fleet, pid = stage.fleet, stage.controller.pid
    stage.operator.push(bulk_policy(RULES_BYTES, 0))  # the first one is another matter: nothing is in force
    quiet(pid)
    series, pushes = Series(fleet.size, Cost(pid, idle_rate(pid))), []
    for turn in range(1, rounds + 1):
        before = fleet.totals()["received"]
        fleet.expect(stored=True)
        with series.cost.counted():
            pushed = stage.operator.push(bulk_policy(RULES_BYTES, turn))
            series.ms.append((fleet.expected()[-1] - pushed.requested) * 1000)
        series.received += fleet.totals()["received"] - before
        pushes.append(pushed)
        quiet(pid)
    return pushes, series


def _fan_out(stage: Stage, rounds: int) -> Series:
    """A few hosts take on many addresses, which every other host must know, and lay them down again."""
    fleet, pid = stage.fleet, stage.controller.pid
    stage.operator.push(bulk_policy(FEW_RULES_BYTES))
    quiet(pid)
    more = more_addresses(stage.members, MEMBERS_BYTES // 4)
    series = Series(fleet.size, Cost(pid, idle_rate(pid)))
    for _ in range(rounds):
        before = fleet.totals()["received"]
        fleet.expect()
        with series.cost.counted():
            began = monotonic()
            fleet.claim(more)
            series.ms.append((fleet.expected()[-1] - began) * 1000)
        series.received += fleet.totals()["received"] - before
        fleet.expect()
        fleet.claim(dict.fromkeys(more, ()))
        fleet.expected()
        quiet(pid)
    return series


def _bare(server: Orders, fleet: Crowds, size: int, rounds: int) -> Series:
    fleet.settle()
    quiet(server.pid)
    series = Series(fleet.size, Cost(server.pid, idle_rate(server.pid)))
    before_agents = sum(map(cpu_seconds, fleet.pids))
    for _ in range(rounds):
        before = fleet.totals()["received"]
        fleet.expect()
        with series.cost.counted():
            began = monotonic()
            server.call("push", size=size)
            series.ms.append((fleet.expected()[-1] - began) * 1000)
        series.received += fleet.totals()["received"] - before
    series.agents_seconds = sum(map(cpu_seconds, fleet.pids)) - before_agents
    return series


def _push_rows(pushes: Sequence[Pushed], series: Series, bare: Series, delay: float, how: str) -> list[Row]:
    phases = [name for name in pushes[0].began if all(name in p.began for p in pushes)]
    moments = {name: median((p.began[name] - p.requested) * 1000 for p in pushes) for name in phases}
    told = ", ".join(f"{name} began after {ms:.0f} ms" for name, ms in moments.items())
    what = (
        f"{how}; from the request until the last agent had stored it: parsed, checked, staged, tried out, confirmed; "
        f"an agent received {series.bytes} B. {told}; the operator heard of the end after "
        f"{median((p.done - p.requested) * 1000 for p in pushes):.0f} ms (medians)"
    )
    return [
        Row("push of 20 KB to the last agent, p50", median(series.ms), "ms", what, _TIME),
        Row("push of 20 KB: CPU per agent, times a bare server's", series.cpu_us / bare.cpu_us, "x", what, _CPU),
        Row("push of 20 KB: CPU per agent", series.cpu_us, "us", "of the controller, all threads, above idle"),
        Row("loop lag during pushes, p99", delay, "ms", "every 20 ms, by the controller's own metric", _LAG),
    ]


def _leg_rows(leg: Series, bare: Series, how: str) -> list[Row]:
    what = (
        f"{how}; {MEMBERS_BYTES // 4} addresses come to a group of every host: from the report of the hosts that took "
        "them on until the last agent had acknowledged, the debounce of 50 ms included; an agent received "
        f"{leg.bytes} B"
    )
    agents_us = bare.agents_seconds * 1e6 / bare.agents / bare.rounds
    least = (
        f"{how}; a bare grpc.aio server: {bare.bytes} B, serialized once, and one acknowledgement. The simulated agent "
        f"itself takes {agents_us:.0f} us for it"
    )
    return [
        Row("fan-out of 20 KB to the last agent, p50", median(leg.ms), "ms", what, _TIME),
        Row("fan-out of 20 KB: CPU per agent, times a bare server's", leg.cpu_us / bare.cpu_us, "x", what, _CPU),
        Row("fan-out of 20 KB: CPU per agent", leg.cpu_us, "us", "of the controller, all threads, above idle"),
        Row("bare server, the same bytes to the last agent, p50", median(bare.ms), "ms", least),
        Row("bare server: CPU per agent", bare.cpu_us, "us", least),
    ]
