"""A real fleet in the lab: a push until every kernel has proved it, a denial until it is on the terminal."""

from __future__ import annotations

import json
import queue
import select
import subprocess
import sys
import threading
import time
from statistics import median

from bench.lab_figures import shop_in_force, two_policies
from bench.rows import Goal, Row
from bench.statistic import percentile
from lab.fleet import BIN, Fleet
from lab.host import REPOSITORY

_PUSH_GOAL, _DENIAL_GOAL = Goal("<", 300), Goal("<", 200)
_FIRST_PORT = 20_000

_CONNECT = """
import socket, sys, time
for line in sys.stdin:
    port = int(line)
    sock = socket.socket()
    sock.setblocking(False)
    started = time.monotonic()
    try:
        sock.connect(("api1", port))
    except OSError:
        pass
    print(started, flush=True)
    sock.close()
"""
"""A client that tells when it began to connect: monotonic time is the same in every process of a machine."""


def measure(quick: bool) -> list[Row]:
    """Rows of pushes and denials."""
    with shop_in_force() as fleet:
        return [*_pushes(fleet, 4 if quick else 30), *_denials(fleet, 5 if quick else 40)]


def _pushes(fleet: Fleet, count: int) -> list[Row]:
    directories = (str(path) for path in two_policies(fleet))
    done = fleet.control.run(
        [sys.executable, "-m", "bench.pusher", str(count), *directories],
        seconds=30 + 5 * count,
        environment={"SEGCTL_CONFIG": str(fleet.admin_directory)},
        here=REPOSITORY,
    )
    if done.returncode:
        raise RuntimeError(f"the pushes failed: {done.stderr.strip()[-600:]}")
    pushes = [json.loads(line) for line in done.stdout.splitlines()]
    total = [push["total_ms"] for push in pushes]
    hosts = [push["hosts_ms"] for push in pushes]
    how = (
        f"{count} pushes of two policies in turns to {len(fleet.managed)} hosts of the lab, from the request of a "
        "connected client to the last host's proof; parse, check, tests and the controller's debounce included"
    )
    return [
        Row("push until proven in every kernel, p50", median(total), "ms", how, _PUSH_GOAL),
        Row("push until proven in every kernel, p95", percentile(total, 0.95), "ms", how, _PUSH_GOAL),
        Row("of that, from stored to the last proof, p50", median(hosts), "ms", "the controller's own clock"),
    ]


def _denials(fleet: Fleet, count: int) -> list[Row]:
    command = [str(BIN / "segctl"), "denied", "--follow", "--host", "web1"]
    environment = {"SEGCTL_CONFIG": str(fleet.admin_directory), "COLUMNS": "200"}
    terminal = fleet.control.popen(command, environment=environment)
    client = fleet.lab.hosts["web1"].popen([sys.executable, "-c", _CONNECT], "cron.service", stdin=subprocess.PIPE)
    lines: queue.Queue[tuple[float, str]] = queue.Queue()
    threading.Thread(target=_read_lines, args=(terminal, lines), daemon=True).start()
    try:
        _deny_until_seen(client, lines)
        times = [_one_denial(client, lines, _FIRST_PORT + number) for number in range(count)]
    finally:
        for process in (terminal, client):
            process.kill()
            process.wait()
    how = (
        f"{count} connections of a process on web1 that no rule permits, each to another port, from the start of "
        "connect() until `segctl denied --follow` wrote its line, one after the other"
    )
    return [
        Row("denial until on the terminal, p50", median(times), "ms", how, _DENIAL_GOAL),
        Row("denial until on the terminal, p95", percentile(times, 0.95), "ms", how, _DENIAL_GOAL),
    ]


def _read_lines(process: subprocess.Popen[str], lines: queue.Queue[tuple[float, str]]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put((time.monotonic(), line))


def _connect(client: subprocess.Popen[str], port: int) -> float:
    """When the client began to connect."""
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(f"{port}\n")
    client.stdin.flush()
    readable, _, _ = select.select([client.stdout], [], [], 10)
    line = client.stdout.readline() if readable else ""
    if not line:
        raise RuntimeError(f"the client on web1 did not try port {port}: it ended with code {client.poll()}")
    return float(line)


def _deny_until_seen(client: subprocess.Popen[str], lines: queue.Queue[tuple[float, str]]) -> None:
    """The follower has connected once it shows anything."""
    for port in range(_FIRST_PORT - 60, _FIRST_PORT):
        _connect(client, port)
        try:
            _await_port(lines, port, 0.5)
        except TimeoutError:
            continue
        return
    raise TimeoutError("`segctl denied --follow` showed none of 60 denials on web1 within 30 s")


def _one_denial(client: subprocess.Popen[str], lines: queue.Queue[tuple[float, str]], port: int) -> float:
    started = _connect(client, port)
    return (_await_port(lines, port, 10) - started) * 1000


def _await_port(lines: queue.Queue[tuple[float, str]], port: int, seconds: float) -> float:
    deadline = time.monotonic() + seconds
    while True:
        try:
            at, line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty as error:
            raise TimeoutError(f"no line about port {port} within {seconds:g} s") from error
        if str(port) in line:
            return at
