"""What operators ask of flows, from the report stream to the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from segctl.proto.v1 import admin_pb2, agent_pb2
from segctl_controller.store.records import Entry

from tests.controller_harness import ControllerLab, FakeAgent, eventually, running_controller
from tests.unit.segctl_controller.test_flows import NOW, SECOND, asked, batch, fleet, flows, mapped
from tests.unit.segctl_controller.test_reports import denial, report


def answer(remote: str = "10.0.0.1", **columns: Any) -> agent_pb2.FlowBatch:
    """What db1 tells of the connection that web1 makes in `flows()`, and of one from outside."""
    told: dict[str, Any] = {
        "workloads": ["shop-db"],
        "rules": ["web-db"],
        "workload": [0, 0],
        "rule": [0, 0],
        "direction": [1, 1],
        "remotes": mapped(remote) + mapped("203.0.113.9"),
        "protocol": [6, 6],
        "port": [5432, 22],
        "flows": [5, 2],
        "verdict": [0, 1],
    }
    return flows(**{**told, **columns})


async def both_ends(lab: ControllerLab) -> tuple[FakeAgent, FakeAgent]:
    web, db = await fleet(lab)
    await report(web, batch(flows=flows()))
    await report(db, batch(flows=answer()))
    return web, db


async def test_flows_are_searched_by_every_field(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        await both_ends(lab)
        for fields, found in (
            ({"address": "10.0.0.0/24"}, {("web1", 5432), ("db1", 5432)}),
            ({"address": "2001:db8::1"}, {("web1", 128)}),
            ({"protocol": "icmpv6"}, {("web1", 128)}),
            ({"protocol": "6", "port": 22}, {("db1", 22)}),
            ({"verdict": "would-deny"}, {("db1", 22)}),
            ({"rule": "web-db", "host": "db1"}, {("db1", 5432), ("db1", 22)}),
            ({"until_us": NOW - 11 * SECOND}, set()),
        ):
            reply = await asked(lab, **fields)
            assert {(f.host, f.service.low) for f in reply.flows} == found, fields
        for wrong in ({"address": "10.0.0"}, {"protocol": "tcpp"}, {"verdict": "no"}, {"process": "p" * 5000}):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asked(lab, **wrong)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_denied_connections_are_found_with_their_process(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web, _ = await both_ends(lab)
        await report(web, batch(2, denials=[denial(), denial("203.0.113.9", 80, 3, verdict="would-deny")]))
        [found] = (await asked(lab, verdict="denied")).flows
        assert (found.host, found.verdict, found.process, found.flows) == ("web1", "denied", "exe:/usr/sbin/sshd", 1)
        assert len((await asked(lab, process="sshd")).flows) == 2
        assert len((await asked(lab, process="ssh.service", port=80)).flows) == 1
        assert [f.service.low for f in (await asked(lab, process="sshd", address="203.0.113.0/24")).flows] == [80]
        assert [f.service.low for f in (await asked(lab, process="sshd", limit=1)).flows] == [80]
        assert list((await asked(lab, process="curl")).flows) == []
        assert all(f.verdict != "denied" for f in (await asked(lab)).flows)


async def test_flows_and_denials_are_found_by_their_process(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web, db = await fleet(lab)
        await report(web, batch(flows=flows(processes=["unit:nginx.service", ""], process=[0, 1])))
        await report(db, batch(flows=answer(processes=["unit:pg@15.service"], process=[0, 0])))
        test = [denial("203.0.113.9", 22, 2, ingress=True, workload="shop-db", verdict="would-deny")]
        for one in test:
            one.process.unit = "pg@15.service"
        await report(db, batch(2, denials=[*test, denial()]))
        [found] = (await asked(lab, process="nginx")).flows
        assert (found.host, found.process, found.peer_process) == ("web1", "unit:nginx.service", "unit:pg@15.service")
        called = (await asked(lab, process="pg@*")).flows
        assert {(f.host, f.service.low, f.verdict, f.peer_process) for f in called} == {
            ("db1", 5432, "allowed", "unit:nginx.service"),
            ("db1", 22, "would-deny", ""),  # the denial about the same flow adds nothing
        }
        assert [f.verdict for f in (await asked(lab, process="pg@*", verdict="would-deny")).flows] == ["would-deny"]
        both = (await asked(lab, process="*")).flows
        assert [f.verdict for f in both].count("denied") == 1
        assert len((await asked(lab, process="*", limit=2)).flows) == 2


async def test_the_map_joins_both_ends(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        await both_ends(lab)
        reply = await lab.admin().FlowMap(admin_pb2.FlowMapRequest())
        edges = {
            (
                e.source.tags["role"] if not e.source.outside else "outside",
                e.destination.tags["role"] if not e.destination.outside else "outside",
                e.service_name or e.service.low,
            ): (e.flows, e.would_deny, e.observed)
            for e in reply.edges
        }
        assert edges == {
            ("web", "db", "pg"): (5, 0, 0),
            ("outside", "db", 22): (2, 2, 0),
            ("outside", "web", 128): (1, 0, 1),
        }
        assert not reply.more
        few = await lab.admin().FlowMap(admin_pb2.FlowMapRequest(limit=1, by=["env"]))
        [edge] = few.edges
        assert (dict(edge.source.tags), few.more) == ({"env": "prod"}, True)
        with pytest.raises(grpc.aio.AioRpcError):
            await lab.admin().FlowMap(admin_pb2.FlowMapRequest(since_us=-1))


async def test_who_talks_most(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        await both_ends(lab)
        reply = await lab.admin().TopTalkers(admin_pb2.TopTalkersRequest(limit=2))
        assert [(t.host, t.workload, t.flows) for t in reply.talkers] == [
            ("db1", "shop-db", 7),
            ("web1", "shop-web", 3),
        ]


async def test_a_removed_host_takes_its_flows_along(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        await both_ends(lab)
        await lab.admin().RemoveHost(admin_pb2.RemoveHostRequest(host="web1"))
        assert {f.host for f in (await asked(lab)).flows} == {"db1"}
        await lab.enrol("db1", {"role": "db", "env": "prod"}, host="db1", replace=True)

        async def gone() -> bool:
            return not (await asked(lab)).flows

        await eventually(gone)


async def test_what_a_host_left_behind_is_gone_after_a_start(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        await both_ends(lab)
        lab.controller.db.store.remove_host(
            "web1", Entry(1, "root", "remove", "host web1")
        )  # as if it had died between its two stores
    async with running_controller(tmp_path) as lab:

        async def gone() -> bool:
            return {f.host for f in (await asked(lab)).flows} == {"db1"}

        await eventually(gone)
