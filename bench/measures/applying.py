"""What it costs to put a policy in force, beside the bare packing of the same elements."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from segctl import wire
from segctl.model.hostpolicy import HostPolicy
from segctl_agent.enforcer import Enforcer
from segctl_agent.nft.fallback import LibraryKernel
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.operations import Batch

from bench.enforced import enforced, new_enforcer
from bench.packer import Packer
from bench.policies import PORT, SERVER, SERVER_UNIT, make_units, sandbox_facts, server_policy
from bench.rows import Goal, Row
from bench.sandbox import NetworkNamespace
from bench.statistic import paired_ratio, percentile
from bench.wire import client_address

_TCP = 6
_MB = 1e6
_CPU_GOAL, _MEMORY_GOAL = Goal("<=", 1.5), Goal("<=", 20)
_ADDRESS_GOAL, _GROWTH_GOAL = Goal("<=", 1), Goal("<=", 1.3)
_GROUP = "web"
_NEWCOMER = client_address(200_000)


def measure(quick: bool) -> list[Row]:
    """Rows of loading everything, and of one address more or less."""
    make_units((SERVER_UNIT,))
    large, runs, addresses = (1_000, 3, 40) if quick else (100_000, 11, 400)
    rows = _full_load(large, runs, goal=not quick)
    if not quick:
        rows += _full_load(10_000, runs, goal=False)
    rows.append(_by_text(1_000 if quick else 10_000, runs))
    return [*rows, _memory(large, quick), *_one_address(large, addresses, quick)]


def _name(entries: int) -> str:
    return f"{entries // 1000}k addresses"


def _cpu_ms(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return (time.process_time() - before) * 1000


def _full_load(entries: int, runs: int, *, goal: bool) -> list[Row]:
    """The agent's enforcer, from the value of a host policy to its proof, beside the packer, in turns."""
    namespace = NetworkNamespace()
    with namespace.entered():
        kernel, packer = _ClockedKernel(), Packer()
    policy, facts = server_policy(entries), sandbox_facts(SERVER)
    addresses = b"".join(client_address(i).packed for i in range(entries))
    ours, acknowledged, proven, bare = [], [], [], []
    for _ in range(runs):
        fresh, began = new_enforcer(kernel, facts), time.process_time()
        ours.append(_cpu_ms(partial(fresh.put, policy)))
        acknowledged.append((kernel.acknowledged - began) * 1000)
        proven.append(_cpu_ms(lambda: _prove(kernel, entries)))
        kernel.destroy()
        bare.append(_cpu_ms(lambda: packer.load("packed", "web", addresses, _TCP, PORT.low)))
        packer.remove("packed")
    kernel.close()
    packer.close()
    namespace.close()
    ratio, sent = paired_ratio(ours, bare), paired_ratio(acknowledged, bare)
    how = f"CPU of one process, the kernel's part included, median of {runs}, in turns"
    put = "the agent's Enforcer from a host policy to its proof: render, plan, apply, read back and compare"
    return [
        Row(
            f"full load until the kernel acknowledged it, over bare packer, {_name(entries)}",
            sent.p50,
            "ratio",
            f"{how}; {sent}; the agent's Enforcer from a host policy: render, plan, pack and apply",
            _CPU_GOAL if goal else None,
        ),
        Row(
            f"full load until it is proven, over bare packer, {_name(entries)}",
            ratio.p50,
            "ratio",
            f"{how}; {ratio}; {put}",
            _CPU_GOAL if goal else None,
        ),
        Row(f"full load, {_name(entries)}", median(ours), "ms CPU", f"{how}; {put}"),
        Row(f"of that, read back, {_name(entries)}", median(proven), "ms CPU", f"{how}; measured by itself"),
        Row(f"bare packer, {_name(entries)}", median(bare), "ms CPU", f"{how}; bench/packer.py, one set, a size"),
    ]


class _ClockedKernel(NetlinkKernel):
    """`acknowledged` is the CPU time of this process when the kernel had acknowledged the last transaction."""

    acknowledged = 0.0

    def apply(self, batch: Batch) -> None:
        super().apply(batch)
        self.acknowledged = time.process_time()


def _by_text(entries: int, runs: int) -> Row:
    """The second way beside the first, in turns. The text is run where its namespace is."""
    namespace = NetworkNamespace()
    policy, facts = server_policy(entries), sandbox_facts(SERVER)
    times: list[list[float]] = [[], []]
    with namespace.entered():
        kernels = (LibraryKernel(), NetlinkKernel())
        for _ in range(runs):
            for kernel, spent in zip(kernels, times, strict=True):
                spent.append(_cpu_ms(partial(new_enforcer(kernel, facts).put, policy)))
                kernel.destroy()
        for kernel in kernels:
            kernel.close()
    namespace.close()
    text, netlink = times
    how = (
        f"CPU of one process, the kernel's part included, median of {runs}, in turns; {paired_ratio(text, netlink)}; "
        f"{median(text):.0f} ms over {median(netlink):.0f} ms: the agent's Enforcer from a host policy to its proof"
    )
    title = f"full load by libnftables text over netlink, {_name(entries)}"
    return Row(title, paired_ratio(text, netlink).p50, "ratio", how)


def _prove(kernel: NetlinkKernel, entries: int) -> None:
    held = kernel.read()
    found = 0 if held is None else sum(len(s.elements) for s in held.sets.values())
    if found < entries:
        raise RuntimeError(f"the kernel holds {found} elements instead of {entries} at least")


def _memory(entries: int, quick: bool) -> Row:
    """In a fresh process each time: what a process once had, it keeps."""
    found = []
    with TemporaryDirectory(prefix="segctl-bench-") as directory:
        files = [_stored(Path(directory, str(n)), server_policy(n)) for n in (100, entries)]
        for _ in range(1 if quick else 5):
            namespace = NetworkNamespace()
            with namespace.entered():
                done = subprocess.run(
                    [sys.executable, "-m", "bench.loader", *files],
                    text=True,
                    capture_output=True,
                    check=False,
                    cwd=Path(__file__).parents[2],
                )
            namespace.close()
            if done.returncode:
                raise RuntimeError(f"the loader stopped with {done.returncode}: {done.stderr.strip()[-600:]}")
            found.append(json.loads(done.stdout))
    peak = median(f["peak"] - f["idle"] for f in found) / _MB
    kept = median(f["after"] - f["idle"] for f in found) / _MB
    how = (
        f"a fresh process with 100 addresses in force takes the message of {entries}, decodes it and puts it in force: "
        f"peak of resident memory (VmHWM) less what it had before ({found[0]['idle'] / _MB:.0f} MB), median of "
        f"{len(found)}; it keeps {kept:.1f} MB; {median(f['cpu_ms'] for f in found):.0f} ms CPU with the decoding"
    )
    return Row(f"full load, memory above idle, {_name(entries)}", peak, "MB", how, None if quick else _MEMORY_GOAL)


def _stored(path: Path, policy: HostPolicy) -> str:
    path.write_bytes(wire.host_policy_to_wire(policy).SerializeToString())
    return str(path)


def _one_address(entries: int, runs: int, quick: bool) -> list[Row]:
    """One address joins and leaves a group of 100 and one of `entries`, in turns."""
    small = 100
    joins: dict[int, list[float]] = {small: [], entries: []}
    leaves: dict[int, list[float]] = {small: [], entries: []}
    with ExitStack() as stack:
        hosts = {}
        for count in joins:
            enforcer, _ = stack.enter_context(enforced(NetworkNamespace(), SERVER))
            enforcer.put(server_policy(count))
            hosts[count] = enforcer
        for _ in range(runs):
            for times, added, removed in ((joins, (_NEWCOMER,), ()), (leaves, (), (_NEWCOMER,))):
                for count, enforcer in hosts.items():
                    times[count].append(_move_ms(enforcer, added, removed))
    how = f"Enforcer.members_changed, from the call to the kernel's acknowledgement, median of {runs}, in turns"
    rows = []
    for what, times, goals in (("into", joins, not quick), ("out of", leaves, False)):
        title, many, few = f"one address {what} {_name(entries)}", times[entries], times[small]
        said = f"{how}; p95 {percentile(many, 0.95):.3f} ms"
        ratio = f"{how}; {median(few):.3f} ms at {small}"
        rows += [
            Row(title, median(many), "ms", said, _ADDRESS_GOAL if goals else None),
            Row(
                f"{title}, over {what} {small}",
                median(many) / median(few),
                "ratio",
                ratio,
                _GROWTH_GOAL if goals else None,
            ),
        ]
    return rows


def _move_ms(enforcer: Enforcer, added: Sequence[IPv4Address], removed: Sequence[IPv4Address]) -> float:
    started = time.perf_counter()
    enforcer.members_changed(_GROUP, added, removed)
    return (time.perf_counter() - started) * 1000
