"""The probes of bench/native/probes.c between two systemd machines of the lab, while something happens to an agent."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.probing import ProbeCounts, Prober, Wrong
from bench.sandbox import CGROUP_MOUNT
from bench.wire import CLIENT, SERVER
from lab.nspawn.fleet import NspawnFleet
from lab.nspawn.machine import Machine

PROCESS, OTHER = "probe.service", "other.service"
SOURCES = "10.0.0.0/16"
"""Of the addresses that the probes come from; no machine of the lab has one of them."""
RULES = f"""version: 1
services:
  probe-in: [tcp/8080]
  probe-out: [tcp/9090]
peers:
  probes: [{CLIENT}/32, {SOURCES}]
workloads:
  probe: {{on: {{app: shop, role: web}}, process: {{unit: {PROCESS}}}}}
rules:
  - {{name: probes-in, from: {{peer: probes}}, to: {{workload: probe}}, allow: [probe-in], owner: bench, why: probes}}
  - {{name: probes-out, from: {{workload: probe}}, to: {{peer: probes}}, allow: [probe-out], owner: bench, why: probes}}
"""
_FAST = """
cd /proc/sys/net
for name in close time_wait; do echo 1 >netfilter/nf_conntrack_tcp_timeout_$name; done
for name in syn_sent syn_recv; do echo 2 >netfilter/nf_conntrack_tcp_timeout_$name; done
echo "1024 65535" >ipv4/ip_local_port_range
"""
"""Entries of closed connections must not pile up to nf_conntrack_max, which all machines share."""


@dataclass(frozen=True, slots=True)
class _Network:
    path: str


@dataclass(frozen=True, slots=True)
class _Machines:
    client: _Network
    server: _Network


def probe_policy(base: Path, directory: Path) -> Path:
    """The policy in `base` with the probes' rules, in `directory`, which must not exist."""
    shutil.copytree(base, directory)
    (directory / "probes.yaml").write_text(RULES)
    return directory


@contextmanager
def probing(fleet: NspawnFleet, server: str, client: str) -> Iterator[Prober]:
    """Probes run between two machines as long as this context lasts; `probe_policy` must be in force on `server`.
    `finish()` of what is given ends them and returns their counts."""
    one, two = fleet.machines[server], fleet.machines[client]
    one.check(["sh", "-c", f"ip addr replace {SERVER}/24 dev host0; ip route replace {SOURCES} via {CLIENT}"])
    two.check(["sh", "-c", f"ip addr replace {CLIENT}/24 dev host0; ip route replace local {SOURCES} dev lo"])
    for machine in (one, two):
        machine.check(["sh", "-c", _FAST])
    for unit in (PROCESS, OTHER):
        one.run(["systemctl", "stop", unit])
        one.check(["systemd-run", f"--unit={unit}", "--collect", "sleep", "infinity"])
    slice_ = (one.cgroup / "payload" / "system.slice").relative_to(CGROUP_MOUNT)
    machines = _Machines(_Network(_network(two)), _Network(_network(one)))
    try:
        with Prober(machines, f"{slice_}/{PROCESS}", f"{slice_}/{OTHER}") as prober:
            yield prober
    finally:
        for unit in (PROCESS, OTHER):
            one.run(["systemctl", "stop", unit])


def _network(machine: Machine) -> str:
    return f"/proc/{machine.place.leader()}/ns/net"


def probe_while(
    fleet: NspawnFleet, server: str, client: str, count: int, act: Callable[[], object]
) -> tuple[ProbeCounts, list[Wrong], int]:
    """`act` again and again until so many probes are made, at least twice. Returns their counts, the first wrong
    verdicts, and how often it was done. Raises RuntimeError when the probes end by themselves."""
    done = 0
    with probing(fleet, server, client) as prober:
        while prober.probes < count or done < 2:
            if not prober.running:
                raise RuntimeError(f"the probes ended by themselves: {prober.finish()}")
            act()
            done += 1
        counts, wrong = prober.finish()
    return counts, wrong, done
