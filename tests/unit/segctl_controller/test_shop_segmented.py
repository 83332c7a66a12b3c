"""The recorded shop, from observe to enforce: what is suggested is accepted, and the plan says what that would do, of
flows that were told before any workload was declared."""

from __future__ import annotations

import json
from pathlib import Path

from segctl.proto.v1 import admin_pb2
from segctl_controller.flowstore.records import DAY_US

from lab.recorded import RecordedFleet, policy_in, recorded_fleet
from lab.recording import SHOP_TRAFFIC, read_recording
from tests.shopdependencies import ATTACK

SHOP = read_recording(SHOP_TRAFFIC)
WEEK_US = SHOP.days * DAY_US


def accepted(fleet: RecordedFleet, directory: Path, suggested: str, mode: str) -> admin_pb2.PolicySource:
    directory.mkdir(exist_ok=True)
    vocabulary = {**json.loads(SHOP.policy()), "modes": [{"select": {}, "mode": mode}]}
    files = {"fleet.yaml": json.dumps(vocabulary), "suggested.yaml": suggested}
    for name, text in files.items():
        (directory / name).write_text(text)
    return admin_pb2.PolicySource(
        files=[admin_pb2.SourceFile(name=name, content=text.encode()) for name, text in files.items()]
    )


async def test_the_plan_tells_the_attack_from_the_shop_and_a_week_in_test_makes_it_ready(tmp_path: Path) -> None:
    async with recorded_fleet(tmp_path) as fleet:
        admin, since = fleet.lab.admin(), fleet.shop.since_us - DAY_US
        suggested = (await admin.Suggest(admin_pb2.SuggestRequest(since_us=since))).policy

        draft = accepted(fleet, tmp_path / "policy", suggested, "enforce")
        ask = admin_pb2.DraftImpactFlowsRequest(source=draft, since_us=since, limit=1000, span_us=DAY_US)
        impact = await admin.DraftImpactFlows(ask)
        attack = [row for row in SHOP.flows if any(one.has(SHOP, row) for one in ATTACK)]
        missing = {(row.host, row.port, row.ingress) for row in attack} - {
            (one.host, one.service.low, one.ingress) for one in impact.blocked
        }
        assert not missing
        assert impact.blocked_flows == sum(row.flows for row in attack) > 0
        assert sum(span.blocked_flows for span in impact.spans) == impact.blocked_flows
        assert sum(one.flows for one in impact.allowed) == impact.judged_flows - impact.blocked_flows
        assert all(one.processes for one in impact.allowed if one.workload not in ("host", ""))

        test = accepted(fleet, tmp_path / "policy", suggested, "test")
        progress = [
            one
            async for one in admin.Push(
                admin_pb2.PushRequest(source=test, wait_seconds=5, rollout=admin_pb2.Rollout(watch_seconds=0))
            )
        ]
        assert progress
        again = await admin.Suggest(admin_pb2.SuggestRequest(since_us=since))
        assert list(again.suggestions) == []  # the processes are those that the workloads have, logins among them

        await fleet.second_week(policy_in(tmp_path / "policy"))
        (ready,) = (await admin.Readiness(admin_pb2.ReadinessRequest())).selectors
        assert ready.ready, ready
        # What came in the first week as a process of the host, and in the second as a workload's, came.
        assert ready.periodic_kinds == 0
