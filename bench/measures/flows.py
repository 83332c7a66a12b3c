"""What it costs to see flows: dumps of conntrack, beside a set that the kernel keeps and a listener to its events."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import Mode
from segctl_agent.conntrack.decode import RowDecoder, messages
from segctl_agent.conntrack.reader import ConntrackReader
from segctl_agent.flows.observer import FlowObserver
from segctl_agent.flows.permits import PolicyIndex
from segctl_agent.flows.watcher import SHARE
from segctl_agent.nft.netlink import NETLINK_NETFILTER

from bench.rows import Goal, Row
from bench.sandbox import run_ip

RULES: Final = """
table inet bench {
  set flows {
    type mark . ipv4_addr . inet_proto . inet_service
    flags dynamic,timeout
    timeout 60s
    size 65536
  }
  chain extra {
  }
  chain out {
    type filter hook output priority 0
    ct state new ct mark set 0x00200000
    ct state new jump extra
  }
}
"""
_SET_RULE = "add rule inet bench extra update @flows { ct mark . ip daddr . meta l4proto . th dport }"
_NEW = 1  # NF_NETLINK_CONNTRACK_NEW of linux/netfilter/nfnetlink_compat.h
_RATE, _TIME_WAIT_SECONDS = 2000, 120
_ROW_GOAL = Goal("<=", 4)


class _Layout:
    """The default of ADR 9."""

    out_mask, in_mask = 0xFFF00000, 0x000FFF00

    def out_id(self, mark: int) -> int:
        return mark >> 20

    def in_id(self, mark: int) -> int:
        return mark >> 8 & 0xFFF

    def loose(self, mark: int) -> bool:
        return bool(mark & 0x80)


def measure(quick: bool) -> list[Row]:
    rounds, entries = (3, 2000) if quick else (40, 20_000)
    run_ip("link set lo up")
    _nft(RULES)
    return [_empty(), *_connections(rounds, 250), *_dumps(entries)]


def _empty() -> Row:
    """The kernel walks every bucket of the machine's one table, whosever the entries are."""
    buckets = Path("/proc/sys/net/netfilter/nf_conntrack_buckets").read_text().strip()
    cost = median(_cpu(_bare_dump, 1) for _ in range(5)) / 1e3
    return Row("flows: a dump of no entry", cost, "ms CPU", f"median of 5; the kernel walks {buckets} buckets")


def _connections(rounds: int, count: int) -> list[Row]:
    """CPU of a thread that owns both ends, without anything, with the set, and beside a listener."""
    server = socket.create_server(("127.0.0.1", 8080), backlog=64)
    plain: list[float] = []
    with_set: list[float] = []
    heard: list[float] = []
    _connect(server, count)
    for _ in range(rounds):
        plain.append(_connect(server, count))
        _nft(_SET_RULE)
        with_set.append(_connect(server, count))
        _nft("flush chain inet bench extra")
        heard.append(_heard(lambda: _connect(server, count)))
    added = median(b - a for a, b in zip(plain, with_set, strict=True))
    how = f"{rounds} rounds of {count} connections over loopback, connect to reset, CPU of one thread; paired median"
    return [
        Row("flows: a connection, both ends", median(plain), "us CPU", how),
        Row("flows: a kernel set adds to a connection", added, "us CPU", f"{how}; reading the set is not in it"),
        Row("flows: a listener's CPU for a NEW event", median(heard), "us CPU", f"{how}; parsed by struct"),
    ]


def _connect(server: socket.socket, count: int) -> float:
    """Microseconds of this thread's CPU for each."""
    began = time.thread_time()
    for _ in range(count):
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        client.close()
        accepted.close()
    return (time.thread_time() - began) / count * 1e6


def _heard(work: Callable[[], object]) -> float:
    """Microseconds of a listener's CPU for each event while `work` runs."""
    events, spent = 0, 0.0
    stop, ready = threading.Event(), threading.Event()

    def listen() -> None:
        nonlocal events, spent
        decoder = RowDecoder()
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
            sock.bind((0, _NEW))
            sock.settimeout(0.1)
            ready.set()
            began = time.thread_time()
            while not stop.is_set():
                try:
                    data = sock.recv(1 << 16)
                except TimeoutError:
                    continue
                events += sum(decoder.row(body) is not None for _, _, _, body in messages(data))
            spent = time.thread_time() - began

    thread = threading.Thread(target=listen)
    thread.start()
    ready.wait(5)
    work()
    stop.set()
    thread.join()
    return spent / max(events, 1) * 1e6


def _dumps(entries: int) -> list[Row]:
    for at in range(entries):
        if at % 50 == 0:
            sender = socket.socket(type=socket.SOCK_DGRAM)
        sender.sendto(b"?", ("127.0.0.1", 20_000 + at % 50))
    reader = ConntrackReader()
    policy = HostPolicy("bench", 1, "", (LocalWorkload("host", None, Mode.OBSERVE),))
    observer, index = FlowObserver(_Layout(), lambda direction, number: "host"), PolicyIndex(policy)

    def observe() -> int:
        return len(observer.observe(reader.read(), index, time.time_ns() // 1000).rows)

    held = sum(len(rows) for rows in reader.read())
    observe()
    kernel = median(_cpu(_bare_dump, held) for _ in range(5))
    decoded = median(_cpu(lambda: sum(len(rows) for rows in reader.read()), held) for _ in range(5))
    observed = median(_cpu(observe, held) for _ in range(5))
    how = f"median of 5 dumps of {held} entries, CPU of the calling thread, the kernel's share included"
    table = _RATE * _TIME_WAIT_SECONDS
    apart = max(5.0, table * observed / 1e6 / SHARE)
    return [
        Row("flows: an entry in a dump, received and not read", kernel, "us CPU", how),
        Row("flows: an entry in a dump, decoded: the decoder's part", decoded - kernel, "us CPU", how, _ROW_GOAL),
        Row("flows: an entry in a dump, observed", observed, "us CPU", f"{how}; all known from the dump before"),
        Row(
            f"flows: seconds between dumps at {_RATE} connections/s",
            apart,
            "s",
            f"so that a dump takes {SHARE:.0%} of a core: {table} entries, each {_TIME_WAIT_SECONDS} s in TIME_WAIT",
        ),
    ]


def _bare_dump() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
        sock.bind((0, 0))
        sock.send(struct.pack("=IHHIIBBH", 20, 0x101, 0x301, 1, 0, 0, 0, 0))
        buffer = bytearray(1 << 16)
        while sock.recv_into(buffer) and buffer[4] != 3:  # NLMSG_DONE
            pass


def _cpu(work: Callable[[], object], entries: int) -> float:
    began = time.thread_time()
    work()
    return (time.thread_time() - began) / entries * 1e6


def _nft(script: str) -> None:
    done = subprocess.run(["nft", "-f", "-"], input=script + os.linesep, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"nft: {done.stderr.strip()}")
