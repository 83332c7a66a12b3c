"""How long ten million flows take to become suggestions: from the flow store, on DuckDB, to rules."""

from __future__ import annotations

import tempfile
import time
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np
from segctl.model.inventory import Host, Inventory
from segctl.model.policy import Policy
from segctl.suggest.engine import suggest
from segctl_controller.flowstore.decisions import parse_tags
from segctl_controller.flowstore.records import DAY_US, MINUTE_US, FlowLimits
from segctl_controller.flowstore.store import SqlFlowStore, flow_store_on
from segctl_controller.flowstore.tables import rows as flow_rows
from segctl_controller.suggestions.gather import Gatherer, window_of

from bench.flowfleet import HOSTS, NOW, ROLES, Ends, tags_of, week
from bench.rows import Goal, Row

ROWS, CHUNK = 10_000_000, 500_000
MOST = 1_000_000
LIMITS = FlowLimits(rows=10**9, megabytes=10**6, days=10_000)


def time_of_ten_million(quick: bool) -> Row:
    number = ROWS // 10 if quick else ROWS
    with tempfile.TemporaryDirectory(prefix="segctl-suggest.") as scratch:
        store = flow_store_on(Path(scratch) / "flows.duckdb", Ends(), LIMITS)
        try:
            _fill(store, number)
            return _measure(store, number)
        finally:
            store.close()


def _measure(store: SqlFlowStore, number: int) -> Row:
    hosts = (Host(f"h{n}", parse_tags(tags_of(n)), (IPv4Address("10.0.0.1") + n,)) for n in range(HOSTS))
    inventory = Inventory({host.name: host for host in hosts})
    since, until = NOW - 7 * DAY_US, NOW
    began, cpu = time.perf_counter(), time.process_time()
    found = store.observations(since, until, MOST)
    asked = time.perf_counter() - began
    window = window_of(found, since, until)
    observations = list(Gatherer(window, store.outside(since, until, MOST)).observations(found))
    suggested = suggest(
        observations, window, inventory, Policy(), datetime.fromtimestamp(NOW / 1e6, UTC), owner="bench"
    )
    took, work = time.perf_counter() - began, time.process_time() - cpu
    how = (
        f"{number:,} rows of {HOSTS:,} hosts in 5,000 tag groups over 7 days, DuckDB; {asked:.1f} s of it in the flow "
        f"store, which makes {len(observations):,} observations of them; {work:.1f} s of CPU; "
        f"{len(suggested.suggestions)} rules suggested"
    )
    return Row(f"{number // 1_000_000} million flows to suggestions", round(took, 1), "s", how, Goal("<=", 60))


def _fill(store: SqlFlowStore, number: int) -> None:
    """Rows as they are stored, past the way on which reports come."""
    rng = np.random.default_rng(11)
    names, groups = store._names, store._groups
    names.add([f"h{n}" for n in range(HOSTS)])
    names.add(["host", *(f"unit:{role}.service" for role in ROLES)])
    groups.add({tags_of(n) for n in range(HOSTS)})
    host = np.array([names.number(f"h{n}") for n in range(HOSTS)])
    tags = np.array([groups.number(tags_of(n)) for n in range(HOSTS)])
    process = np.array([names.number(f"unit:{role}.service") for role in ROLES])
    traffic, minute = week(rng, number)
    inside = (traffic.remote >> 24) == 10
    peer = np.where(inside, traffic.remote - (10 << 24) - 1, 0)
    count = rng.integers(1, 50, number)
    columns = {
        "minute": minute,
        "folded": np.ones(number, dtype=np.int64),
        "host": host[traffic.host],
        "workload": np.full(number, names.number("host")),
        "process": process[traffic.role],
        "tags": tags[traffic.host],
        "ingress": traffic.ingress,
        "remote_high": np.zeros(number, dtype=np.int64),
        "remote_low": traffic.remote | 0xFFFF << 32,
        "peer": np.where(inside, host[peer], 0),
        "peer_workload": np.zeros(number, dtype=np.int64),
        "peer_tags": np.where(inside, tags[peer], 0),
        "protocol": np.full(number, 6),
        "port": traffic.port,
        "rule": np.zeros(number, dtype=np.int64),
        "verdict": np.full(number, 2),
        "flows": count,
        "bytes_sent": count * 700,
        "bytes_received": count * 9000,
        "first_us": minute * MINUTE_US,
        "last_us": minute * MINUTE_US + rng.integers(0, MINUTE_US, number),
    }
    for at in range(0, number, CHUNK):
        with store._database.transaction() as work:
            work.append(flow_rows, {name: column[at : at + CHUNK] for name, column in columns.items()})
