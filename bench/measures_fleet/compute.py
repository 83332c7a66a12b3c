"""Who must enforce what: all of it at once, and what changes after it. No network, no database: the compiler alone."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from ipaddress import IPv4Address
from statistics import median
from time import perf_counter

from segctl.bodywire import host_policy_bytes
from segctl.model.inventory import Host, Inventory
from segctl.model.policy import Policy
from segctl.policy.compile import Compiler
from segctl.policy.parse import parse_policy

from bench.fleet.policies import HOSTS, RULES, fleet_hosts, fleet_policy
from bench.rows import Goal, Row

QUICK_HOSTS, QUICK_RULES = 500, 500
BURST = 2_000
ROUNDS = 5
FIRST = IPv4Address("10.128.0.0")


def measure(quick: bool = False) -> list[Row]:
    number, rules = (QUICK_HOSTS, QUICK_RULES) if quick else (HOSTS, RULES)
    policy = parse_policy(fleet_policy(rules=rules)).policy
    if policy is None:
        raise RuntimeError("the fleet's policy does not parse")
    hosts = [Host(h.name, h.tags, h.addresses) for h in fleet_hosts(number)]
    now = datetime.now(UTC)
    compiler, full = _full(policy, hosts, now)
    serialized = _timed(lambda: _serialize(compiler, hosts))
    bodies = len({id(compiler.body(host.name)) for host in hosts})
    burst = _burst(compiler, hosts)
    one = _one(compiler, hosts)
    moved = _relabelled(compiler, hosts)
    what = f"{number} hosts with five tags, {rules} rules about 200 applications in 5 environments"
    return [
        Row(
            f"full compute, {number} hosts x {rules} rules",
            median(full),
            "ms",
            f"{what}: the entries, groups, members and digest of every host ({bodies} bodies are shared); median of "
            f"{ROUNDS}, best {min(full):.0f}",
            Goal("<=", 150),
        ),
        Row(
            "all host policies serialized, after that",
            serialized,
            "ms",
            f"{what}: {number} HostPolicy messages put together from their shared parts, once",
        ),
        Row(
            f"burst of {BURST} address changes routed",
            median(burst),
            "ms",
            f"{what}: {min(BURST, number)} hosts get another address in one round, until it is known whose policy "
            f"changed; median of {ROUNDS}, best {min(burst):.0f}",
            Goal("<=", 50),
        ),
        Row("one address change routed", median(one), "ms", f"{what}; median of {ROUNDS}"),
        Row("one host relabelled", median(moved), "ms", f"{what}: it moves to another application; median of {ROUNDS}"),
    ]


def _full(policy: Policy, hosts: list[Host], now: datetime) -> tuple[Compiler, list[float]]:
    """Without garbage collection, as a controller works after its start."""
    inventory, took = Inventory({host.name: host for host in hosts}), []
    for _ in range(ROUNDS):
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            began = perf_counter()
            compiler = Compiler(policy, inventory, now)
            compiler.settle()
            for host in hosts:
                compiler.body(host.name).host_digest(host.name, 1, "")
            took.append((perf_counter() - began) * 1000)
        finally:
            gc.enable()
    return compiler, took


def _serialize(compiler: Compiler, hosts: list[Host]) -> None:
    for host in hosts:
        host_policy_bytes(compiler.body(host.name), host.name, 1, "")


def _burst(compiler: Compiler, hosts: list[Host]) -> list[float]:
    took = []
    for turn in range(ROUNDS):
        changed = [replace(h, addresses=(FIRST + turn * BURST + n,)) for n, h in enumerate(hosts[:BURST])]
        took.append(_timed(partial(_settle, compiler, changed)))
    return took


def _one(compiler: Compiler, hosts: list[Host]) -> list[float]:
    changes = [[replace(host, addresses=(FIRST - 1 - n,))] for n, host in enumerate(hosts[-ROUNDS:])]
    return [_timed(partial(_settle, compiler, changed)) for changed in changes]


def _relabelled(compiler: Compiler, hosts: list[Host]) -> list[float]:
    some = hosts[-2 * ROUNDS :]
    changes = [[replace(one, tags=other.tags)] for one, other in zip(some[:ROUNDS], some[ROUNDS:], strict=True)]
    return [_timed(partial(_settle, compiler, changed)) for changed in changes]


def _settle(compiler: Compiler, changed: list[Host]) -> None:
    for host in changed:
        compiler.put(host)
    compiler.settle()


def _timed(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return (perf_counter() - began) * 1000
