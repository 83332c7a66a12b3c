"""On systemd machines with the units of systemd/: pushes, boots, restarts of the agent, exposure, memory and CPU."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.lab_figures import EXTRA_RULE, SHOP
from bench.nspawn_probing import probe_policy, probe_while
from bench.rows import Goal, Row
from bench.statistic import percentile
from bench.usage import Usage, usage
from lab.host import REPOSITORY
from lab.nspawn.fleet import AGENT, AGENT_BOOT, CONTROLLER, PROGRAM, NspawnFleet, put_directory
from lab.topology import unit_cgroup

_HOST, _CLIENT, _ADDRESS = "web1", "client1", "10.77.1.11"
_DENIALS = 1000
_EXPOSED = ((AGENT, 2.8), (AGENT_BOOT, None), (CONTROLLER, 2.0), ("segctl-exec-gate.service", None))
_ZERO = Goal("==", 0)
_FLOOD = """
import socket, sys, time
sock, rate = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), int(sys.argv[1])
sent, began = 0, time.monotonic()
end = began + float(sys.argv[2])
while time.monotonic() < end:
    while sent < (time.monotonic() - began) * rate:
        try:
            sock.sendto(b"x", ("10.77.2.11", 10_000 + sent % 50_000))
        except OSError:
            pass
        sent += 1
    time.sleep(0.002)
print(sent)
"""
"""A unit that sends to a port after the other, none of which a rule permits: each is a denial of its own."""


def measure(quick: bool) -> list[Row]:
    """Rows of five managed machines that share this machine's cores."""
    pushes, boots, probes, seconds = (4, 1, 5_000, 3.0) if quick else (20, 3, 100_000, 30.0)
    with NspawnFleet() as fleet, tempfile.TemporaryDirectory() as directory:
        policy = probe_policy(SHOP, Path(directory) / "policy")
        fleet.push(policy)
        fleet.await_in_sync()
        return [
            *_pushes(fleet, pushes, policy),
            *_exposure(fleet),
            *_costs(fleet, seconds),
            *_restarts(fleet, probes),
            *_boots(fleet, boots),
        ]


def _pushes(fleet: NspawnFleet, count: int, policy: Path) -> list[Row]:
    for name in ("plain", "extra"):
        put_directory(fleet.control, policy, Path(f"/root/{name}"))
    fleet.control.write("/root/extra/extra.yaml", EXTRA_RULE)
    fleet.control.copy_in(REPOSITORY / "bench" / "pusher.py", "/root/pusher.py")
    command = ["/opt/segctl/bin/python", "/root/pusher.py", str(count), "/root/plain", "/root/extra"]
    environment = {"SEGCTL_CONFIG": str(fleet.admin_directory)}
    done = fleet.control.run(command, seconds=30 + 5 * count, environment=environment)
    if done.returncode:
        raise RuntimeError(f"the pushes failed: {done.stderr.strip()[-600:]}")
    times = [json.loads(line)["total_ms"] for line in done.stdout.splitlines()]
    fleet.push(policy)
    how = (
        f"{count} pushes of two policies in turns to {len(fleet.topology.managed)} systemd machines, from the request "
        "of a connected client to the last host's proof from its kernel"
    )
    goal = Goal("<", 1000)
    return [
        Row("push to systemd machines until proven, p50", median(times), "ms", how, goal),
        Row("push to systemd machines until proven, p95", percentile(times, 0.95), "ms", how, goal),
    ]


def _exposure(fleet: NspawnFleet) -> list[Row]:
    rows = []
    for unit, bound in _EXPOSED:
        said = fleet.machines[_HOST].check(["systemd-analyze", "security", "--no-pager", unit])
        found = re.search(r"exposure level for \S+: ([0-9.]+)", said)
        if found is None:
            raise RuntimeError(f"systemd-analyze says nothing of {unit}: {said[-300:]}")
        goal = None if bound is None else Goal("<", bound)
        how = "systemd-analyze security on the machine, systemd 252; 0 is best, 10 is worst"
        rows.append(Row(f"exposure of {unit}", float(found[1]), "of 10", how, goal))
    return rows


def _costs(fleet: NspawnFleet, seconds: float) -> list[Row]:
    quiet = _cost(fleet, seconds, "idle", "nothing happening")
    client = fleet.machines[_HOST].popen(
        ["python3", "-c", _FLOOD, str(_DENIALS), str(seconds + 5)], unit="nginx.service", stdin=subprocess.DEVNULL
    )
    time.sleep(3)  # what is measured is the middle of it
    busy = _cost(fleet, seconds, f"{_DENIALS} denials/s", f"a unit of {_HOST} refused {_DENIALS} times a second")
    said, _ = client.communicate(timeout=60)
    if not said.strip().isdigit() or int(said) < _DENIALS * seconds:
        raise RuntimeError(f"what was to be refused was not sent: {said.strip()[-300:]}")
    return [*quiet, *busy]


def _cost(fleet: NspawnFleet, seconds: float, name: str, what: str) -> list[Row]:
    places = {
        "agent": fleet.machines[_HOST].cgroup / "payload" / unit_cgroup(AGENT),
        "controller": fleet.control.cgroup / "payload" / unit_cgroup(CONTROLLER),
    }
    before = {one: usage(place) for one, place in places.items()}
    time.sleep(seconds)
    after = {one: usage(place) for one, place in places.items()}
    return [row for one in places for row in _rows(one, name, what, seconds, before[one], after[one])]


def _rows(one: str, name: str, what: str, seconds: float, before: Usage, after: Usage) -> list[Row]:
    how = f"the {one}'s unit, {what} for {seconds:g} s; PSS {after.proportional:.1f} MB; all agents share the cores"
    share = (after.cpu - before.cpu) / seconds * 100
    return [
        Row(f"{one} as a unit, {name}, memory", after.resident, "MB RSS", how),
        Row(f"{one} as a unit, {name}, CPU", share, "% of a core", how),
    ]


def _restarts(fleet: NspawnFleet, probes: int) -> list[Row]:
    machine, turn = fleet.machines[_HOST], 0

    def restart() -> None:
        nonlocal turn
        pid = machine.main_pid(AGENT)
        if turn % 2:
            machine.kill_unit(AGENT)
            machine.await_restart(AGENT, pid)
        else:
            machine.systemctl("restart", AGENT)
        turn += 1
        time.sleep(0.5)

    counts, wrong, done = probe_while(fleet, _HOST, _CLIENT, probes, restart)
    told = "; ".join(one.what for one in wrong[:5])
    how = (
        f"{counts.probes} probes from {_CLIENT} to {_HOST} and back, {counts.denied} of them forbidden, during {done} "
        f"restarts of the agent's unit, every other one by SIGKILL{f'; first wrong: {told}' if told else ''}"
    )
    return [
        Row("agent restarts, forbidden probes that passed", counts.wrongly_allowed, "of them", how, _ZERO),
        Row("agent restarts, permitted probes that lost a packet", counts.wrongly_dropped, "of them", how, _ZERO),
        Row("agent restarts, open connections that stalled", counts.stalled, "exchanges", how, _ZERO),
    ]


def _boots(fleet: NspawnFleet, count: int) -> list[Row]:
    machine = fleet.machines[_HOST]
    with_unit = [_boot(fleet) for _ in range(count)]
    machine.systemctl("mask", AGENT_BOOT)
    without = _boot(fleet)
    machine.systemctl("unmask", AGENT_BOOT)
    how = (
        f"{count} reboots of {_HOST}, {sum(p for p, _ in with_unit)} connections to its sshd tried from {_CLIENT} over "
        "IPv4 and IPv6 from before power-off until its agent was in sync, all forbidden"
    )
    return [
        Row("boot, forbidden connections that passed", sum(w for _, w in with_unit), "connections", how, _ZERO),
        Row("the same without the boot unit", without[1], "connections", f"1 reboot, {without[0]} tried"),
    ]


def _boot(fleet: NspawnFleet) -> tuple[int, int]:
    """Connections tried, and passed."""
    spec = fleet.machines[_HOST].spec
    targets = [f"closed,4,{spec.v4},22", f"closed,6,{spec.v6},22"]
    watch = fleet.machines[_CLIENT].popen([*PROGRAM, "watch", *targets], stdin=subprocess.PIPE)
    assert watch.stdout is not None
    watch.stdout.readline()
    fleet.machines[_HOST].reboot()
    fleet.await_in_sync()
    said, _ = watch.communicate(timeout=30)
    seen = json.loads(said.splitlines()[-1]).values()
    return sum(one["probes"] for one in seen), sum(one["count"] for one in seen)
