"""What a controller tells monitoring, over its own port; and doctor on its machine."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from segctl.doctor import Diagnosis, Level
from segctl.errors import StateError
from segctl.statuspage import Where
from segctl_controller import doctor
from segctl_controller import monitor as pages
from segctl_controller.config import DATABASE_FILE, load_config, save_config
from segctl_controller.monitor import METRICS, Monitor

from tests.controller_harness import ControllerLab, running_controller

POLICY = """version: 1
tags: {role: [web]}
modes: [{select: {}, mode: observe}]
"""


def monitor_of(lab: ControllerLab) -> Monitor:
    c, now = lab.controller, datetime.now(UTC)
    database = lab.state / DATABASE_FILE
    return Monitor(c.fleet, c.db, c.flows, c.feed, lambda: (now, now), lambda: True, database, lambda: c.trust.cas)


async def fetch(where: Where, path: str) -> tuple[int, str]:
    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{where}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(get)


async def test_the_fleet_in_numbers(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        monitor = monitor_of(lab)
        where = monitor.start(Where("127.0.0.1", 0))
        agent = await lab.enrol("secret-web", {"role": "web"})
        await lab.push(POLICY)
        async with agent.session(addresses=["10.0.0.1"]) as session:
            await session.acknowledge()
            await asyncio.sleep(0.1)
            status, text = await fetch(where, "/metrics")
        assert status == 200
        found = {(s.name, *s.labels.values()): s.value for f in text_string_to_metric_families(text) for s in f.samples}
        assert found["segctl_controller_generation",] == 1
        assert found["segctl_controller_hosts", "in-sync"] == 1
        assert found["segctl_controller_sessions",] == 1
        assert found["segctl_controller_store_seconds_count",] > 3
        assert (found["segctl_controller_ca_rotation",], found["segctl_controller_hosts_of_old_ca",]) == (0, 0)
        assert found["segctl_controller_database_bytes",] > 4096
        assert {m.exposed for m in METRICS if m.kind != "histogram"} <= {name for name, *_ in found}
        assert "secret-web" not in text
        assert await fetch(where, "/healthz") == (200, "ok\n")
        assert await fetch(where, "/readyz") == (200, "ok\n")
        await monitor.close()


async def test_a_database_that_takes_no_write_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "STORE_SECONDS", 0.5)
    async with running_controller(tmp_path) as lab:
        monitor = monitor_of(lab)
        where = monitor.start(Where("127.0.0.1", 0))
        holder = sqlite3.connect(lab.state / DATABASE_FILE)
        holder.execute("BEGIN IMMEDIATE")  # as a disk that hangs would
        status, text = await fetch(where, "/readyz")
        assert (status, "did not take a write within 0.5 s" in text) == (503, True)
        holder.rollback()
        holder.close()
        await asyncio.sleep(0.1)
        monitor._proved_at = -100.0
        assert await fetch(where, "/readyz") == (200, "ok\n")
        await monitor.close()


async def test_failures_of_the_store_are_counted(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:

        def fails() -> None:
            raise StateError("no")

        try:
            await lab.controller.db.call(fails)
        except StateError:
            assert lab.controller.db.failures == 1
        assert lab.controller.db.waiting == 0


def levels(diagnosis: Diagnosis) -> dict[str, Level]:
    return {f.check: f.level for f in diagnosis.findings}


async def test_doctor_finds_a_running_controller_well_and_a_broken_one_ill(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        save_config(lab.state, lab.controller.config)  # with the ports that were chosen
        monitor = monitor_of(lab)
        where = monitor.start(Where("127.0.0.1", 0))
        found = levels(await asyncio.to_thread(doctor.diagnose, lab.state, where))
        assert {c: x for c, x in found.items() if c not in ("clock", "units", "journal")} == dict.fromkeys(
            ("state", "disk", "ca", "database", "port", "enrol-port", "ready"), Level.OK
        )
        await monitor.close()
    state = tmp_path / "controller"
    before = sorted((p.name, p.stat().st_mtime_ns) for p in state.iterdir())
    stopped = await asyncio.to_thread(doctor.diagnose, state, where)
    assert sorted((p.name, p.stat().st_mtime_ns) for p in state.iterdir()) == before
    assert (levels(stopped)["port"], levels(stopped)["database"]) == (Level.PROBLEM, Level.OK)
    assert stopped.exit_code == 3
    database = state / DATABASE_FILE
    content = bytearray(database.read_bytes())
    content[4096:8192] = os.urandom(4096)
    database.write_bytes(content)
    (state / "ca.key").chmod(0o644)
    ill = levels(await asyncio.to_thread(doctor.diagnose, state, None))
    assert (ill["database"], ill["state"], ill["ca"]) == (Level.PROBLEM,) * 3
    assert load_config(state).port
    shutil.rmtree(state)
    assert doctor.diagnose(state, None).exit_code == 3


def test_ends_of_certificates_and_answers() -> None:
    now = datetime(2026, 11, 28, tzinfo=UTC)
    ends = [now + timedelta(days=days) for days in (100, 30, -1)]
    told = [next(iter(doctor.judge_end("ca", "it", end, now, "renew"))).level for end in ends]
    assert told == [Level.OK, Level.WARNING, Level.PROBLEM]
    answers = [("HTTP/1.1 200 OK", "ok\n"), ("HTTP/1.1 503 Service Unavailable", "no\n"), ("220 mail ESMTP", "")]
    judged = [next(iter(doctor.judge_ready(*answer))) for answer in answers]
    assert [f.level for f in judged] == [Level.OK, Level.PROBLEM, Level.WARNING]
    assert judged[1].text == "no"
