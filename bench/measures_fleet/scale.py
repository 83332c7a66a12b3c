"""10,000 agents on one controller: what they cost while nothing happens, a small change to the last of them, and how
long it takes until all are back after the controller was killed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from time import monotonic

from bench.fleet.bare import bare_server
from bench.fleet.crowds import crowds
from bench.fleet.identities import Member
from bench.fleet.lag import delay_ms, reading
from bench.fleet.policies import bulk_policy, fleet_hosts
from bench.fleet.process import ControllerProcess, cpu_seconds, resident_bytes
from bench.fleet.stage import Stage, connected, idle_rate, more_addresses, new_controller, quiet
from bench.rows import Goal, Row

SECONDS = 3600.0
AGENTS, QUICK_AGENTS = 10_000, 100
ROUNDS, QUICK_ROUNDS = 3, 1
DELTA_BYTES, RULES_BYTES = 2_000, 200
PATIENCE = 600.0


def measure(quick: bool) -> list[Row]:
    agents, rounds = (QUICK_AGENTS, QUICK_ROUNDS) if quick else (AGENTS, ROUNDS)
    with new_controller(fleet_hosts(agents)) as (controller, members):
        bare = _bare_rows(controller, members)
        quiet(controller.pid)
        alone, cpu = resident_bytes(controller.pid), cpu_seconds(controller.pid)
        with connected(controller, members) as stage:
            quiet(controller.pid, PATIENCE)
            rows = _idle_rows(stage, alone, cpu)
            stage.operator.push(bulk_policy(RULES_BYTES), wait=round(PATIENCE))
            quiet(controller.pid, PATIENCE)
            with_policy = (resident_bytes(controller.pid) - alone) / agents / 1000
            rows.append(Row("the same, with a policy of one rule", with_policy, "kB", "after the first push"))
            return [*rows, *bare, *_delta_rows(stage, rounds), *_restart_rows(stage)]


def _bare_rows(controller: ControllerProcess, members: Sequence[Member]) -> list[Row]:
    with (
        bare_server(controller.state) as (server, address),
        crowds([member.at([address]) for member in members]) as fleet,
    ):
        alone, cpu = resident_bytes(server.pid), cpu_seconds(server.pid)
        seconds = fleet.connect(PATIENCE)
        quiet(server.pid)
        connecting = (cpu_seconds(server.pid) - cpu) / fleet.size * 1e6
        kilobytes = (resident_bytes(server.pid) - alone) / fleet.size / 1000
        how = f"{fleet.size} agents at a bare grpc.aio server (bench/fleet/bare.py)"
        return [
            Row("bare server: memory per idle agent", kilobytes, "kB", how),
            Row("bare server: CPU while idle", idle_rate(server.pid, 10.0) * 100, "%", how),
            Row("bare server: first connection of all", seconds, "s", f"{how}; {connecting:.0f} us of CPU each"),
        ]


def _idle_rows(stage: Stage, alone: int, cpu: float) -> list[Row]:
    pid, agents = stage.controller.pid, stage.fleet.size
    connecting = (cpu_seconds(pid) - cpu) / agents * 1e6
    idle = idle_rate(pid, 10.0)
    kilobytes = (resident_bytes(pid) - alone) / agents / 1000
    how = f"{agents} agents, each with a TLS connection and a session, no policy in force"
    return [
        Row("memory of the controller per idle agent", kilobytes, "kB", how, Goal("<=", 90)),
        Row("CPU of the controller while idle", idle * 100, "%", f"{how}; of one core, keepalives and heartbeats"),
        Row("first connection of all", stage.connect_seconds, "s", f"{how}; {connecting:.0f} us of CPU each"),
    ]


def _delta_rows(stage: Stage, rounds: int) -> list[Row]:
    fleet, pid, times = stage.fleet, stage.controller.pid, []
    more = more_addresses(stage.members, DELTA_BYTES // 4)
    before, lag = fleet.totals()["received"], reading(stage.controller.metrics())
    for number in range(2 * rounds):
        fleet.expect()
        began = monotonic()
        fleet.claim(more if number % 2 == 0 else dict.fromkeys(more, ()))
        times.append(fleet.expected(PATIENCE)[-1] - began)
        quiet(pid, PATIENCE)
    delay = delay_ms(lag, reading(stage.controller.metrics()), 0.99)
    received = (fleet.totals()["received"] - before) / fleet.size / len(times)
    how = (
        f"{len(times)} times, {DELTA_BYTES // 4} addresses come to or leave a group of all {fleet.size} hosts: "
        f"until the last agent had acknowledged; an agent received {received:.0f} B"
    )
    return [
        Row("2 KB of change to the last agent, p50", median(times), "s", how, Goal("<=", 1.2)),
        Row("loop lag meanwhile, p99", delay, "ms", how, Goal("<=", 20)),
    ]


def _restart_rows(stage: Stage) -> list[Row]:
    fleet, controller = stage.fleet, stage.controller
    sessions = fleet.totals()["sessions"]
    controller.kill()
    began = monotonic()
    up = controller.start()
    seconds = fleet.connected_after(began, sessions, PATIENCE)
    how = (
        f"SIGKILL, and started at once; it listened after {up:.1f} s. {fleet.size} agents back off as real ones do: "
        "until the last was greeted"
    )
    return [Row("all agents back after a restart of the controller", seconds, "s", how, Goal("<=", 12))]
