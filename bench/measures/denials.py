"""The way of a denial from the kernel to the agent's report: how fast, how surely named, and what a flood costs."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Callable

import psutil
from segctl_agent.denials.nflog import NflogReader
from segctl_agent.denials.pipeline import DenialPipeline
from segctl_agent.denials.prefix import NFLOG_GROUP, encode
from segctl_agent.denials.values import Attribution, Denial
from segctl_agent.render.ends import SNAPLEN

from bench.denying import Denying, program
from bench.rows import Goal, Row
from bench.sandbox import run_ip, run_nft

_READER_GOAL = Goal(">=", 100_000)
_WORKLOAD_GOAL, _PROCESS_GOAL = Goal("==", 100), Goal(">=", 99)
_MEMORY_GOAL, _COUNT_GOAL = Goal("<=", 48), Goal("==", 0)
_EVENTS_A_PACKET = 8
_PATIENCE_SECONDS = 60.0

_PACED = """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
start, sent = time.monotonic(), 0
while sent < {count}:
    due = min({count}, int((time.monotonic() - start) * {rate}) + 1)
    while sent < due:
        try: s.sendto(b'x', ('127.0.0.9', 7001))
        except OSError: pass
        sent += 1
print(time.monotonic() - start, flush=True)
"""
_CONNECT = """
sockets, start = [], time.monotonic()
for i in range({count}):
    while time.monotonic() < start + i / {rate}: time.sleep(0.0005)
    while len(sockets) > 2 * {rate}: sockets.pop(0).close()
    s = socket.socket(); s.setblocking(False)
    s.connect_ex(('10.99.%d.%d' % (i // 250 % 200, i % 250 + 1), 7000 + i // 50000)); sockets.append(s)
print(time.monotonic() - start, flush=True)
sys.stdin.read()
"""
_FLOOD = """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
to = [('10.99.%d.%d' % (i // 250, i % 250 + 1), 7001) for i in range({flows})]
start = time.monotonic()
for i in range({count}):
    try: s.sendto(b'x', to[i % {flows}])
    except OSError: pass
print(time.monotonic() - start, flush=True)
"""


def measure(quick: bool) -> list[Row]:
    run_ip("link set lo up")
    seconds, count, flows = (2.0, 100_000, 1000) if quick else (10.0, 1_000_000, 10_000)
    flood = asyncio.run(_flood(count, flows))  # first, while the memory of the process is its own
    reader = asyncio.run(_reader(2 if quick else 6, 1.0 if quick else 3.0))
    return [*reader, *asyncio.run(_attribution(seconds)), *flood]


async def _reader(steps: int, seconds: float) -> list[Row]:
    """The highest rate of a ladder that comes through, to the last event."""
    best, tried = 0.0, []
    for step in range(steps):
        rate = 80_000 + 40_000 * step
        offered, missed = await _offer(rate, seconds)
        tried.append(f"{offered:.0f}/s: {'all' if not missed else f'{missed} lost'}")
        if missed or offered < 0.9 * rate:
            break
        best = max(best, offered)
    how = (
        f"UDP packets logged {_EVENTS_A_PACKET} times each by rules without a limit, {seconds:g} s a step, read, "
        f"parsed and coalesced in one process while another sends; {'; '.join(tried)}"
    )
    return [Row("denial reader, events per second without loss", best, "events/s", how, _READER_GOAL)]


async def _offer(rate: int, seconds: float) -> tuple[float, int]:
    """(events a second that were offered, how many of them did not come through)."""
    log = f'log prefix "{encode("out", "deny", "shop")}" group {NFLOG_GROUP} snaplen {SNAPLEN}'
    rules = "\n".join(f"ip daddr 127.0.0.9 {log}" for _ in range(_EVENTS_A_PACKET))
    hook = "type filter hook output priority 0"
    run_nft(f"table inet reader {{\nchain output {{\n{hook}\n{rules}\nip daddr 127.0.0.9 drop\n}}\n}}\n")
    reader = NflogReader()
    pipeline = DenialPipeline(reader, lambda packets: [Attribution()] * len(packets), lambda denials, lost: None)
    pipeline.start(asyncio.get_running_loop())
    try:
        count = int(rate * seconds / _EVENTS_A_PACKET)
        sender = await program(_PACED.format(count=count, rate=rate / _EVENTS_A_PACKET), None)
        took = float((await sender.communicate(b""))[0])
        expected, last = count * _EVENTS_A_PACKET, -1
        while pipeline.received < expected and pipeline.received != last:
            last = pipeline.received
            await asyncio.sleep(0.5)
        return expected / took, expected - pipeline.received
    finally:
        pipeline.close()
        run_nft("delete table inet reader\n")


async def _attribution(seconds: float) -> list[Row]:
    """Two programs connect 500 times a second each, always to somewhere else, and go on while they are denied."""
    workloads, rate = ("api", "web"), 500
    found: list[Denial] = []
    count = int(rate * seconds)
    with Denying(workloads, lambda denials, lost: found.extend(d for d in denials if d.count == 1)) as host:
        clients = [await program(_CONNECT.format(count=count, rate=rate), w) for w in workloads]
        took = 0.0
        for client in clients:
            assert client.stdout is not None
            took = max(took, float(await client.stdout.readline()))
        await _until(lambda: len({(d.workload, d.remote, d.port) for d in found}) >= 2 * count, 5)
        expected = host.denied()
        for client in clients:
            await client.communicate(b"")
    pids = {w: c.pid for w, c in zip(workloads, clients, strict=True)}
    first = {(d.workload, d.remote, d.port): d for d in reversed(found)}
    named = sum(d.process.pid == pids.get(d.workload) for d in first.values())
    unnamed = Counter(d.process_unknown for d in first.values() if d.process_unknown)
    how = (
        f"{expected} connections that do not block, of two units, to an address and port each, {expected / took:.0f} a "
        f"second; the agent's share of a core for looking up is a fifth; without a process: {dict(unnamed) or 'none'}"
    )
    share = 100 / expected
    return [
        Row("denials attributed to their workload, TCP drop, 1000 per s", len(first) * share, "%", how, _WORKLOAD_GOAL),
        Row("denials attributed to their process, TCP drop, 1000 per s", named * share, "%", how, _PROCESS_GOAL),
    ]


async def _flood(count: int, flows: int) -> list[Row]:
    told: Counter[str] = Counter()

    def tell(denials: list[Denial], lost: int) -> None:
        told["denials"] += len(denials)
        told["packets"] += sum(d.count for d in denials)
        told["lost"] += lost

    process = psutil.Process()
    with Denying(("shop",), tell) as host:
        host.account()
        await asyncio.sleep(1)
        gc.collect()
        memory, cpu, peak = process.memory_info().rss, time.process_time(), 0
        sender = await program(_FLOOD.format(count=count, flows=flows), "shop")
        ended = asyncio.create_task(sender.communicate(b""))
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not ended.done() or told["packets"] + told["lost"] < host.denied():
            host.account()
            await asyncio.sleep(1)
            peak = max(peak, process.memory_info().rss)
            if time.monotonic() > deadline:
                break
        cpu, took, counted = time.process_time() - cpu, float(ended.result()[0]), host.denied()
    how = (
        f"{counted} denied UDP packets of {flows} flows, {counted / took:.0f} a second; {told['denials']} denials told "
        f"of {told['packets']} packets, {told['lost']} known as lost; log rules pass 1000 a second"
    )
    return [
        Row("flood: memory growth of the denial path", (peak - memory) / 2**20, "MiB", how, _MEMORY_GOAL),
        Row("flood: denied packets that no denial counts", counted - told["packets"], "packets", how, _COUNT_GOAL),
        Row("flood: CPU of the denial path, a million packets", cpu * 1e6 / counted, "s", how),
    ]


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110 - a bound on waiting, not an event
        await asyncio.sleep(0.1)
