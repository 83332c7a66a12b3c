"""What it costs to put a policy in force, beside the bare packing of the same elements."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.plan import plan
from segctl_agent.render import render

from bench.packer import Packer
from bench.policies import PORT, SERVER, SERVER_UNIT, make_units, sandbox_facts, server_policy
from bench.rows import Row
from bench.sandbox import NetworkNamespace
from bench.wire import client_address

_TCP = 6


def measure(quick: bool) -> list[Row]:
    """Context rows, CPU milliseconds of the calling process with the kernel's share, medians."""
    make_units((SERVER_UNIT,))
    rows: list[Row] = []
    for entries, runs in ((1_000, 3),) if quick else ((10_000, 9), (100_000, 5)):
        rows += _full_load(entries, runs)
        rows += _one_address(entries, runs * 2)
    return rows


def _cpu_ms(work: Callable[[], None]) -> float:
    before = time.process_time()
    work()
    return (time.process_time() - before) * 1000


def _full_load(entries: int, runs: int) -> list[Row]:
    namespace = NetworkNamespace()
    with namespace.entered():
        kernel, packer = NetlinkKernel(), Packer()
    policy, facts = server_policy(entries), sandbox_facts(SERVER)
    addresses = b"".join(client_address(i).packed for i in range(entries))
    ours, proven, bare = [], [], []
    for _ in range(runs):
        ours.append(_cpu_ms(lambda: kernel.apply(plan(None, render(policy, facts, 1)))))
        proven.append(_cpu_ms(lambda: _prove(kernel, entries)))
        kernel.destroy()
        bare.append(_cpu_ms(lambda: packer.load("packed", "web", addresses, _TCP, PORT.low)))
        packer.remove("packed")
    kernel.close()
    packer.close()
    namespace.close()
    how = f"CPU of one process, kernel included, median of {runs}, in turns"
    ratio = median([a / b for a, b in zip(ours, bare, strict=True)])
    name = f"{entries // 1000}k entries"
    return [
        Row(f"full load, {name}", median(ours), "ms CPU", f"render, plan and apply to an empty kernel; {how}"),
        Row(f"read back, {name}", median(proven), "ms CPU", f"dump and parse the whole table; {how}"),
        Row(f"bare packing, {name}", median(bare), "ms CPU", f"bench/packer.py, one set of the same elements; {how}"),
        Row(f"full load over bare packing, {name}", ratio, "ratio", how),
    ]


def _prove(kernel: NetlinkKernel, entries: int) -> None:
    read = kernel.read()
    if read is None or max(len(s.elements) for s in read.sets.values()) < entries:
        raise RuntimeError(f"the kernel does not hold {entries} elements after a full load")


def _one_address(entries: int, runs: int) -> list[Row]:
    """One host more in the group, then one less: render and plan see the whole policy, the kernel one element."""
    namespace = NetworkNamespace()
    with namespace.entered():
        kernel = NetlinkKernel()
    facts = sandbox_facts(SERVER)
    before, after = server_policy(entries), server_policy(entries + 1)
    now = render(before, facts, 1)
    kernel.apply(plan(None, now))
    whole, only_kernel = [], []
    for run in range(runs * 2):
        started = time.process_time()
        wanted = render(before if run % 2 else after, facts, 1)
        batch = plan(now, wanted)
        planned = time.process_time()
        kernel.apply(batch)
        applied = time.process_time()
        whole.append((applied - started) * 1000)
        only_kernel.append((applied - planned) * 1000)
        now = wanted
    kernel.close()
    namespace.close()
    how = f"median of {runs * 2}, the address added and removed in turns"
    name = f"{entries // 1000}k entries"
    return [
        Row(f"one address more or less, {name}", median(whole), "ms CPU", f"render, plan and apply; {how}"),
        Row(f"one address more or less, {name}, in the kernel", median(only_kernel), "ms CPU", f"apply only; {how}"),
    ]
