"""The map, from the report stream to the answer: what the policy says of an edge, drill-down, and time travel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from segctl.proto.v1 import admin_pb2
from segctl_controller.clock import Clock

from tests.controller_harness import ControllerLab, FakeAgent, running_controller
from tests.unit.segctl_controller.policies import SHOP
from tests.unit.segctl_controller.test_flowquestions import both_ends
from tests.unit.segctl_controller.test_flows import NOW, SECOND, asked, batch
from tests.unit.segctl_controller.test_reports import denial, report

HOUR = 3600 * SECOND
LOOSE = SHOP.replace("mode: enforce", "mode: observe").replace("web-db", "old-name")
WEB, DB = {"role": "web", "env": "prod"}, {"role": "db", "env": "prod"}
OFFICE = {"outside": True, "peer": "office"}


@dataclass
class Moved:
    """A clock that tests put where they want it."""

    now_us: int = NOW

    def __call__(self) -> int:
        return self.now_us


def group(**fields: Any) -> admin_pb2.TagGroup:
    return admin_pb2.TagGroup(**fields)


async def the_map(lab: ControllerLab, **fields: Any) -> admin_pb2.FlowMapReply:
    return await lab.admin().FlowMap(admin_pb2.FlowMapRequest(**fields))


async def edges(lab: ControllerLab, **fields: Any) -> dict[tuple[str, str, int], admin_pb2.MapEdge]:
    """By source, destination and port."""

    def name(end: admin_pb2.TagGroup) -> str:
        words = (end.host, end.workload, end.process) if end.host else (end.tags.get("role", ""),)
        return "/".join(filter(None, (end.peer, end.network) if end.outside else words)) or "outside"

    found = (await the_map(lab, **fields)).edges
    return {(name(e.source), name(e.destination), e.service.low): e for e in found}


async def told(lab: ControllerLab) -> tuple[FakeAgent, FakeAgent]:
    """Flows of web1 and db1, and two denials of web1: one from the office, and one that no policy denies."""
    web, db = await both_ends(lab)
    denials = [
        denial("203.0.113.9", 80, 3, verdict="denied"),
        denial("10.0.0.2", 5432, 2, ingress=False, workload="host", verdict="denied"),
        denial("203.0.113.9", 81, verdict="would-deny"),
    ]
    await report(web, batch(2, denials=denials))
    return web, db


async def test_an_edge_says_what_the_policy_says_and_why(tmp_path: Path) -> None:
    clock = Moved(NOW - HOUR)
    async with running_controller(tmp_path, Clock(clock)) as lab:
        await told(lab)  # pushes SHOP
        clock.now_us = NOW + HOUR
        reply = await the_map(lab)
        assert (reply.generation, reply.compared_since_us > 0, reply.more_denied) == (1, True, False)
        found = await edges(lab)
        assert {place: (e.verdict, e.flows, e.denied) for place, e in found.items()} == {
            ("web", "db", 5432): ("allowed", 5, 2),
            ("office", "db", 22): ("denied", 2, 0),
            ("outside", "web", 128): ("denied", 1, 0),
            ("office", "web", 80): ("denied", 0, 3),
        }
        shop = found["web", "db", 5432]
        assert shop.verdicts == admin_pb2.MapVerdicts(allowed=5)
        assert shop.comparison == admin_pb2.MapComparison(permitted=5, misdropped=2)
        assert [(r.ingress, r.verdict, r.reason, r.rule, r.owner) for r in shop.reasons] == [
            (False, "allowed", "rule", "web-db", "team"),
            (True, "allowed", "rule", "web-db", "team"),
        ]
        assert found["office", "db", 22].comparison == admin_pb2.MapComparison(escaped=2)
        assert found["office", "web", 80].comparison == admin_pb2.MapComparison(rejected=3)
        [why] = found["office", "web", 80].reasons
        assert (why.ingress, why.verdict, why.reason, why.flows) == (True, "denied", "default", 3)


async def test_the_map_goes_into_hosts_workloads_processes_and_blocks(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        await told(lab)
        edge = {"source": group(tags=WEB), "destination": group(tags=DB), "protocol": "tcp", "port": 5432}
        assert list(await edges(lab, **edge)) == [("web", "db", 5432)]
        assert list(await edges(lab, **edge, detail="host")) == [("web1", "db1", 5432)]
        assert set(await edges(lab, **edge, detail="workload")) == {
            ("web1/shop-web", "db1/shop-db", 5432),
            ("web1/host", "db1/shop-db", 5432),
        }
        process = group(host="web1", process="unit:ssh.service")
        assert set(await edges(lab, source=process, detail="process")) == {("web1/host/unit:ssh.service", "db1", 5432)}
        assert set(await edges(lab, source=group(**OFFICE), detail="network")) == {
            ("office/203.0.113.0/24", "db", 22),
            ("office/203.0.113.0/24", "web", 80),
        }
        assert set(await edges(lab, source=group(outside=True))) == {("outside", "web", 128)}
        assert len(await edges(lab, source=group(outside=True, peer="any"))) == 3
        assert set(await edges(lab, source=group(network="203.0.113.0/24"), destination=group(host="db1"))) == set()
        block = group(network="203.0.113.0/24", peer="office")
        assert set(await edges(lab, source=block, destination=group(host="db1"))) == {("office", "db", 22)}


async def test_single_flows_of_an_edge_are_found(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        await told(lab)
        found = (await asked(lab, source=group(tags=WEB), destination=group(tags=DB))).flows
        assert {(f.host, f.service.low) for f in found} == {("web1", 5432), ("db1", 5432)}
        found = (await asked(lab, source=group(**OFFICE))).flows
        assert [(f.host, f.service.low) for f in found] == [("db1", 22)]
        found = (await asked(lab, source=group(**OFFICE), verdict="denied")).flows
        assert [(f.host, f.service.low) for f in found] == [("web1", 80)]
        assert not (await asked(lab, source=group(tags=DB))).flows


async def test_the_map_is_judged_by_the_policy_of_a_moment(tmp_path: Path) -> None:
    clock = Moved(NOW - HOUR)
    async with running_controller(tmp_path, Clock(clock)) as lab:
        await told(lab)
        clock.now_us = NOW + HOUR
        await lab.push(LOOSE)
        clock.now_us = NOW + 2 * HOUR
        place = ("office", "db", 22)
        assert (await edges(lab))[place].verdict == "not-covered"
        assert not (await edges(lab))["web", "db", 5432].comparison.permitted  # all of it was before
        then = {"at_us": NOW, "until_us": NOW}
        assert (await the_map(lab, **then)).generation == 1
        assert (await edges(lab, **then))[place].verdict == "denied"
        assert (await edges(lab, **then))[place].comparison.escaped == 2
        assert (await edges(lab, generation=1))[place].verdict == "denied"
        assert not (await the_map(lab, generation=1)).compared_since_us  # the other one was in force, too
        before = await the_map(lab, at_us=NOW - 4 * HOUR)
        assert (before.generation, {edge.verdict for edge in before.edges}) == (0, {"not-covered"})
        [rule] = {r.rule for r in (await edges(lab))["web", "db", 5432].reasons if r.rule}
        assert rule == "old-name"


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"at_us": -1}, grpc.StatusCode.INVALID_ARGUMENT, "at_us"),
        ({"generation": 9}, grpc.StatusCode.NOT_FOUND, "no generation 9"),
        ({"detail": "cpu"}, grpc.StatusCode.INVALID_ARGUMENT, "network, host"),
        ({"source": group(peer="nobody")}, grpc.StatusCode.NOT_FOUND, "no peer 'nobody'"),
        ({"source": group(outside=True, host="web1")}, grpc.StatusCode.INVALID_ARGUMENT, "and not both"),
        ({"source": group(network="x")}, grpc.StatusCode.INVALID_ARGUMENT, "neither an address nor a network"),
        ({"source": group(host="h" * 65)}, grpc.StatusCode.INVALID_ARGUMENT, "names of 64"),
        ({"destination": group(process="p" * 257)}, grpc.StatusCode.INVALID_ARGUMENT, "destination has"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(
    tmp_path: Path, fields: dict[str, Any], code: grpc.StatusCode, words: str
) -> None:
    async with running_controller(tmp_path) as lab:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await the_map(lab, **fields)
        assert (caught.value.code(), words in str(caught.value.details())) == (code, True)
