"""Flows: how many a second one process stores, and how long the questions of operators take over ten million rows.

All of it is measured on DuckDB, which has the goals; a smaller part on PostgreSQL, in the same run, for the comparison.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from segctl.proto.v1 import agent_pb2
from segctl_controller.clock import Clock
from segctl_controller.flowbatch import columns_of
from segctl_controller.flowstore.claiming import Claims
from segctl_controller.flowstore.draft import judge, keys_of
from segctl_controller.flowstore.records import DAY_US, MINUTE_US, FlowFilter, FlowLimits, FlowReport, MapFilter
from segctl_controller.flowstore.store import SqlFlowStore, flow_store_on
from segctl_controller.flowstore.tables import rows as flow_rows
from segctl_controller.flowstore.tables import tag_groups
from segctl_controller.flowstore.thread import FlowThread
from segctl_controller.garbage import THRESHOLDS
from segctl_controller.store.conninfo import Conninfo
from sqlalchemy import select

from bench.flowfleet import HOSTS, NOW, ROLES, Ends, message, policy, process_of, tags_of, week
from bench.postgres import running_server
from bench.rows import Goal, Row

SECONDS = 1200.0
AGENTS, BATCH, ROUNDS = 8, 2_000, 120
ROWS, POSTGRES_ROWS, CHUNK = 10_000_000, 1_000_000, 500_000
REPEATS = 5
LIMITS = FlowLimits(rows=10**9, megabytes=10**6, days=10_000)


def measure(quick: bool = False) -> list[Row]:
    """Rows for bench/out/fleet.json. PostgreSQL is left out, with a row that says why, where it is not installed."""
    number, rounds = (ROWS // 10, ROUNDS // 10) if quick else (ROWS, ROUNDS)
    with tempfile.TemporaryDirectory(prefix="segctl-flows.") as scratch:
        found = [
            *_ingest("DuckDB", Path(scratch) / "ingest.duckdb", rounds, Goal(">=", 300_000)),
            *_questions("DuckDB", Path(scratch) / "questions.duckdb", number, goals=True),
        ]
    try:
        with running_server() as connect:
            found += _ingest("PostgreSQL", connect(), max(rounds // 4, 4), None)
            found += _questions("PostgreSQL", connect(), min(number, POSTGRES_ROWS), goals=False)
    except FileNotFoundError as error:
        found.append(Row("flows stored, PostgreSQL", None, "rows/s", f"no PostgreSQL server here: {error}"))
    return found


def _ingest(engine: str, where: Path | Conninfo, rounds: int, goal: Goal | None) -> list[Row]:
    """From the bytes of reports to the answer that they are durable."""
    rng = np.random.default_rng(5)
    reports = [[message(rng, agent, BATCH, n) for n in range(rounds)] for agent in range(AGENTS)]
    store = flow_store_on(where, Ends(), LIMITS)
    flows = FlowThread(store, Clock(lambda: NOW))
    try:
        asyncio.run(_told(flows, [told[:1] for told in reports]))  # names and addresses are known from here on
        began = time.process_time()
        took = asyncio.run(_told(flows, [told[1:] for told in reports]))
        cpu = time.process_time() - began
    finally:
        flows.close()
    number = AGENTS * (rounds - 1) * BATCH
    how = (
        f"{AGENTS} agents, {rounds - 1} reports of {BATCH} rows each: parsed, checked, stamped, committed in groups, "
        f"durable; {cpu / number * 1e6:.1f} us of CPU a row in this process"
    )
    return [Row(f"flows stored end to end, one process, {engine}", round(number / took), "rows/s", how, goal)]


async def _told(flows: FlowThread, reports: Sequence[Sequence[bytes]]) -> float:
    async def agent(number: int, told: Sequence[bytes]) -> None:
        for data in told:
            batch = agent_pb2.ReportBatch.FromString(data)
            columns = columns_of(batch.flows, NOW + DAY_US)
            assert await flows.add(
                FlowReport(f"h{number}", batch.epoch, batch.sequence, NOW, columns, batch.flows.lost)
            )

    began = time.perf_counter()
    await asyncio.gather(*(agent(number, told) for number, told in enumerate(reports)))
    return time.perf_counter() - began


def _questions(engine: str, where: Path | Conninfo, number: int, goals: bool) -> list[Row]:
    store = flow_store_on(where, Ends(), LIMITS)
    try:
        fill(store, number)
        day = NOW - DAY_US
        draft, moment = policy(), datetime.fromtimestamp(NOW / 1e6, UTC)
        one = FlowFilter(since_us=day, low=_remote(2007), high=_remote(2007), port=5432)
        keys = keys_of(draft)
        kinds = store.judged_alike(day, 0, 10**6, keys)
        blocked = judge(kinds, draft, moment)
        size = store.size()
        what = f"of {number:,} rows over 7 days and {HOSTS:,} hosts, {engine}"
        return [
            _row(
                f"map of 24 h {what}",
                lambda: store.map(MapFilter(10**6, day, keys=keys)),
                Goal("<=", 350) if goals else None,
            ),
            _row(f"map by process of 24 h {what}", lambda: store.process_map(day, 0, 10**6)),
            _row(f"observations of 7 days {what}", lambda: store.observations(0, 0, 10**6)),
            _row(
                f"draft impact of 24 h {what}",
                lambda: judge(store.judged_alike(day, 0, 10**6, keys, Claims(draft, draft)), draft, moment),
                Goal("<=", 150) if goals else None,
                f"{len(kinds):,} kinds of flows, each judged once by a policy of {len(draft.rules):,} rules; "
                f"{len(blocked.denied):,} would be blocked",
            ),
            _row(f"top talkers of 24 h {what}", lambda: store.talkers(day, 0, 20)),
            _row(f"search of 24 h by address and port {what}", lambda: store.flows(one)),
            Row(f"bytes on the disk for each row {what}", round(size.bytes / size.rows, 1), "B", "whole store / rows"),
        ]
    finally:
        store.close()


def _row(name: str, question: Callable[[], Any], goal: Goal | None = None, how: str = "") -> Row:
    times, work = [], []
    thresholds = gc.get_threshold()
    gc.set_threshold(*THRESHOLDS)  # as a controller works: it never walks all that there is in the midst of a question
    try:
        for _ in range(REPEATS):
            gc.collect()
            began, cpu = time.perf_counter(), time.process_time()
            answer = question()
            times.append((time.perf_counter() - began) * 1000)
            work.append((time.process_time() - cpu) * 1000)
    finally:
        gc.set_threshold(*thresholds)
    told = how or f"{len(answer):,} rows in the answer"
    spread = (
        f"median of {REPEATS}, {min(times):.0f} to {max(times):.0f} ms; {median(work):.0f} ms of CPU in this process"
    )
    return Row(name, round(median(times), 1), "ms", f"{spread}; {told}", goal)


def fill(store: SqlFlowStore, number: int) -> None:
    """Rows as they are stored, past the way on which reports come."""
    rng = np.random.default_rng(7)
    names, groups = store._names, store._groups
    names.add([f"h{n}" for n in range(HOSTS)])
    names.add([*ROLES, *map(process_of, ROLES), *(f"r{n}" for n in range(20))])
    groups.add({tags_of(n) for n in range(HOSTS)})
    host = np.array([names.number(f"h{n}") for n in range(HOSTS)])
    tags = np.array([groups.number(tags_of(n)) for n in range(HOSTS)])
    role = np.array([names.number(name) for name in ROLES])
    process = np.array([names.number(process_of(name)) for name in ROLES])
    traffic, minute = week(rng, number)
    inside = (traffic.remote >> 24) == 10
    peer = np.where(inside, traffic.remote - (10 << 24) - 1, 0)
    count = rng.integers(1, 50, number)
    columns = {
        "minute": minute,
        "folded": np.ones(number, dtype=np.int64),
        "host": host[traffic.host],
        "workload": role[traffic.role],
        "process": process[traffic.role],
        "tags": tags[traffic.host],
        "ingress": traffic.ingress,
        "remote_high": np.zeros(number, dtype=np.int64),
        "remote_low": traffic.remote | 0xFFFF << 32,
        "peer": np.where(inside, host[peer], 0),
        "peer_workload": np.where(inside, role[peer // 1000 % 5], 0),
        "peer_tags": np.where(inside, tags[peer], 0),
        "protocol": np.full(number, 6),
        "port": traffic.port,
        "rule": role[traffic.role],
        "verdict": np.zeros(number, dtype=np.int64),
        "flows": count,
        "bytes_sent": count * 700,
        "bytes_received": count * 9000,
        "first_us": minute * MINUTE_US,
        "last_us": minute * MINUTE_US + rng.integers(0, MINUTE_US, number),
    }
    for at in range(0, number, CHUNK):
        with store._database.transaction() as work:
            work.append(flow_rows, {name: column[at : at + CHUNK] for name, column in columns.items()})
    with store._database.reading() as work:
        assert work.rows(select(tag_groups.c.id).limit(1))


def _remote(host: int) -> bytes:
    return b"\0" * 10 + b"\xff\xff" + ((10 << 24) + host + 1).to_bytes(4)
