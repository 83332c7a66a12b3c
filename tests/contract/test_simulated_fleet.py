"""The simulated fleet of the bench against a real controller in a process of its own: agents of bench/fleet answer as
agents do, so that what is measured with them is what a fleet would see."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest
from segctl.proto.v1 import admin_pb2
from segctl_controller.setup import open_store
from segctl_controller.store.records import DenialFilter

from bench.fleet.bare import bare_server
from bench.fleet.crowd import Churn
from bench.fleet.crowds import crowds
from bench.fleet.identities import enrol, load, save
from bench.fleet.policies import bulk_policy, fleet_hosts
from bench.fleet.reports import Load, program
from bench.fleet.sizing import simulate
from bench.fleet.stage import Stage, connected, more_addresses, new_controller

AGENTS = 20
REPORTS = Load(seconds=0.5, flows=5, denials=1)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with (
        new_controller(fleet_hosts(AGENTS), heartbeat=1) as (controller, members),
        connected(controller, members, REPORTS, steady=True, verify=True) as stage,
    ):
        stage.operator.push(bulk_policy(1_000))
        yield stage


def test_a_push_is_proved_and_stored_by_every_agent(stage: Stage) -> None:
    stage.fleet.expect(stored=True)
    pushed = stage.operator.push(bulk_policy(1_000, turn=1))
    assert pushed.proven == AGENTS
    assert pushed.requested < stage.fleet.expected(10)[-1]
    assert set(stage.operator.states().values()) == {"in-sync"}


def test_a_change_of_membership_reaches_every_agent(stage: Stage) -> None:
    before = stage.fleet.totals()["received"]
    stage.fleet.expect()
    stage.fleet.claim(more_addresses(stage.members, 10))
    assert len(stage.fleet.expected(10)) == AGENTS
    assert stage.fleet.totals()["received"] - before >= AGENTS * 10 * 4


def test_agents_come_back_and_what_was_acknowledged_is_stored(stage: Stage) -> None:
    deadline = monotonic() + 10
    while stage.fleet.totals()["reports"] < 2 * AGENTS:
        assert monotonic() < deadline
        sleep(0.05)
    sessions = stage.fleet.totals()["sessions"]
    stage.controller.kill()
    acknowledged = {
        program(epoch, sequence) for _, epoch, last, _ in stage.fleet.reported() for sequence in range(1, last + 1)
    }
    store = open_store(stage.controller.state)
    stored = store.denials(DenialFilter(limit=100_000))
    store.close()
    bodies = [admin_pb2.DeniedConnection.FromString(denial.body) for denial in stored]
    assert acknowledged <= {body.denial.process.exe for body in bodies}
    stage.controller.start()
    assert stage.fleet.connected_after(monotonic(), sessions, 20) < 20


def test_a_bare_server_is_answered_like_a_controller(stage: Stage) -> None:
    with (
        bare_server(stage.controller.state) as (server, address),
        crowds([member.at([address]) for member in stage.members[:5]], count=1) as fleet,
    ):
        fleet.connect(20)
        for size in (20_000, 3_000_000):  # the second one is larger than what may be on its way at a time
            before = fleet.totals()["received"]
            fleet.expect()
            server.call("push", size=size)
            assert len(fleet.expected(10)) == 5
            assert fleet.totals()["received"] - before > 5 * size


def test_agents_enrolled_with_a_token_show_an_operator_what_they_see(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    join, file = stage.operator.token({"app": "login", "env": "prod"}, 3), tmp_path / "agents.json"
    save(file, asyncio.run(enrol(join, fleet_hosts(AGENTS + 3)[AGENTS:])))
    assert file.stat().st_mode & 0o077 == 0
    # Reports of 100 KB are larger than what a server takes ahead.
    simulate(load(file), Load(0.5, 5_000, 1), Churn(moves=5), count=1, verify=True, every=1, seconds=3)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["agents"] == 3
    assert lines[-1]["connected"] == 3
    assert lines[-1]["reports_per_s"] > 0
    assert lines[-1]["acks_per_s"] > 0
    assert not lines[-1]["failures"]
