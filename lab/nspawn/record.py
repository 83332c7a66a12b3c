"""Records the traffic of an unsegmented shop: systemd machines with traffic.json's services, clients and attacker, real
agents that only observe, and what they told, read from the controller's flow store. A day takes a minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from ipaddress import IPv6Address
from pathlib import Path
from tempfile import TemporaryDirectory

from segctl_controller.config import FLOWS_FILE
from segctl_controller.flowstore.records import MINUTE_US, FlowFilter, FlowRecord
from segctl_controller.flowstore.store import SqlFlowStore, flow_store_on

from lab.fleet import parallel
from lab.host import HERE
from lab.instance import LabError
from lab.nspawn.fleet import CONTROLLER, CONTROLLER_STATE, NspawnFleet
from lab.nspawn.lab import NspawnLab
from lab.nspawn.machine import Machine
from lab.recording import RecordedFlows, RecordedHost, RecordedListener, Recording, unsegmented
from lab.topology import HostSpec, load_topology

TRAFFIC = HERE / "nspawn" / "traffic.json"
DAY_SECONDS = 60
"""The flow store's resolution, and cron's."""
ATTACKER, ATTACK = "stray1", "attack.service"
ATTACK_BEGINS = 0.4
"""When the attack begins, as a share of its day."""
TOLD_SECONDS = 15.0
"""Until the agents have told of what was last."""
MOST_ROWS = 100_000


def record_traffic(days: int, attack_day: int, say: Callable[[str], None]) -> Recording:
    """Takes `days` minutes, and one or two to boot. Raises LabError."""
    if not 0 <= attack_day < days:
        raise LabError(f"the attack is on one of the days 0 to {days - 1}, not {attack_day}")
    topology = load_topology(TRAFFIC)
    with NspawnFleet(NspawnLab(topology)) as fleet:
        observe(fleet)
        start = _next_day()
        for day in range(days):
            _await(start + day * DAY_SECONDS)
            say(f"day {day + 1} of {days}")
            if day == attack_day:
                _await(start + (day + ATTACK_BEGINS) * DAY_SECONDS)
                fleet.machines[ATTACKER].systemctl("start", "--no-block", ATTACK)
        _await(start + days * DAY_SECONDS + TOLD_SECONDS)
        hosts = tuple(_host(fleet, spec) for spec in topology.hosts)
        flows = _told(fleet, start, days)
    recorded = datetime.fromtimestamp(start, UTC).isoformat()
    return Recording(recorded, DAY_SECONDS, days, attack_day, hosts, flows)


def observe(fleet: NspawnFleet) -> None:
    """Every host observes, and permits everything; bytes are counted. Returns when all agents do."""
    topology = fleet.topology
    parallel(_count_bytes, [fleet.machines[host.name] for host in topology.managed])
    with TemporaryDirectory() as policy:
        text = unsegmented(tag for host in topology.hosts for tag in host.tags)
        (Path(policy) / "policy.yaml").write_text(text)
        fleet.push(Path(policy))
    fleet.await_in_sync(60)


def _count_bytes(machine: Machine) -> None:
    machine.check(["sysctl", "-qw", "net.netfilter.nf_conntrack_acct=1"])


def _next_day() -> int:
    return (int(time.time()) // DAY_SECONDS + 1) * DAY_SECONDS


def _await(moment: float) -> None:
    while (left := moment - time.time()) > 0:
        time.sleep(min(left, 1.0))


def _host(fleet: NspawnFleet, spec: HostSpec) -> RecordedHost:
    addresses = (str(spec.v4), str(spec.v6))
    if not spec.managed:
        return RecordedHost(spec.name, addresses, managed=False)
    listeners = tuple(
        RecordedListener(*(one[key] for key in ("protocol", "address", "port", "process", "uid", "cgroup")))
        for one in fleet.host(spec.name)["listeners"]
    )
    return RecordedHost(spec.name, addresses, True, spec.tags, listeners)


def _told(fleet: NspawnFleet, start: int, days: int) -> tuple[RecordedFlows, ...]:
    """From a copy of the controller's flow store; the controller is stopped for it."""
    fleet.control.systemctl("stop", CONTROLLER)
    with TemporaryDirectory() as scratch:
        store = _store_of(fleet.control, Path(scratch))
        try:
            lost = store.lost("", 0)
            if lost:
                raise LabError(f"the agents could not tell of {lost} flows: this machine is too busy to record")
            return tuple(_flows(store, start, days))
        finally:
            store.close()


class _NoEnds:
    """What is read only needs to know of no host."""

    revision = 0

    def tags(self, host: str) -> str:
        return ""

    def holder(self, remote: bytes) -> str:
        return ""

    def listener(self, host: str, protocol: int, port: int) -> str:
        return ""


def _store_of(control: Machine, scratch: Path) -> SqlFlowStore:
    state = control.storage.outside(control.storage.upper / CONTROLLER_STATE.lstrip("/"))
    for source in state.glob(f"{FLOWS_FILE}*"):
        (scratch / source.name).write_bytes(source.read_bytes())
    return flow_store_on(scratch / FLOWS_FILE, _NoEnds())


def _flows(store: SqlFlowStore, start: int, days: int) -> Iterator[RecordedFlows]:
    for day in range(days):
        began = (start + day * DAY_SECONDS) * 1_000_000
        wanted = FlowFilter(limit=MOST_ROWS, since_us=began, until_us=began + MINUTE_US - 1)
        yield from sorted((_row(found, day, began) for found in store.flows(wanted)), key=str)


def _row(found: FlowRecord, day: int, began: int) -> RecordedFlows:
    key, remote = found.key, IPv6Address(found.key.remote)
    sums = (found.flows, found.bytes_sent, found.bytes_received)
    times = (max(0, moment - began) // 1000 for moment in (found.first_us, found.last_us))
    ends = (key.host, key.ingress, key.process, str(remote.ipv4_mapped or remote))
    return RecordedFlows(day, *ends, key.protocol, key.port, *sums, *times)
