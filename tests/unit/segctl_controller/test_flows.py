"""Flows and hits from the report stream to the questions of operators."""

from __future__ import annotations

import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl.errors import SegctlError, WireError
from segctl.proto.v1 import admin_pb2, agent_pb2
from segctl_controller.errors import LimitError
from segctl_controller.flowbatch import MOST_FLOWS, OLDEST, columns_of, hits_of
from segctl_controller.flowstore.columns import SHARED, joined_remote
from segctl_controller.flowstore.records import HOUR_US
from segctl_controller.store.records import HitRecord

from tests.controller_harness import ControllerLab, FakeAgent, running_controller
from tests.unit.segctl_controller.policies import SHOP, WIDER
from tests.unit.segctl_controller.test_reports import report

NOW = time.time_ns() // 1000
SECOND = 1_000_000


def mapped(text: str) -> bytes:
    return b"\0" * 10 + b"\xff\xff" + ip_address(text).packed


def flows(**columns: Any) -> agent_pb2.FlowBatch:
    """Two rows of the last ten seconds: out to 10.0.0.2 by a rule, in from 2001:db8::1 by mode."""
    values: dict[str, Any] = {
        "from_us": NOW - 10 * SECOND,
        "until_us": NOW,
        "workloads": ["host", "shop-web"],
        "rules": ["", "web-db"],
        "workload": [1, 0],
        "rule": [1, 0],
        "direction": [0, 1],
        "remotes": mapped("10.0.0.2") + ip_address("2001:db8::1").packed,
        "protocol": [6, 58],
        "port": [5432, 128],
        "flows": [3, 1],
        "bytes_sent": [700, 0],
        "bytes_received": [9000, 0],
        "first_ms": [1000, 0],
        "last_ms": [9000, 10_000],
        "verdict": [0, 2],
    }
    return agent_pb2.FlowBatch(**{**values, **columns})


def batch(sequence: int = 1, **fields: Any) -> agent_pb2.ReportBatch:
    return agent_pb2.ReportBatch(epoch="e1", sequence=sequence, **fields)


def times(message: agent_pb2.FlowBatch) -> list[tuple[int, int]]:
    columns = columns_of(message, NOW)
    return list(zip(columns.first_us.tolist(), columns.last_us.tolist(), strict=True))


def test_columns_are_taken_as_they_are() -> None:
    columns = columns_of(flows(), NOW)
    assert (columns.workloads, columns.rules, len(columns)) == (("host", "shop-web"), ("", "web-db"), 2)
    told = {name: getattr(columns, name).tolist() for name in ("workload", "rule", "ingress", "protocol", "port")}
    assert told == {"workload": [1, 0], "rule": [1, 0], "ingress": [0, 1], "protocol": [6, 58], "port": [5432, 128]}
    counts = (columns.verdict, columns.flows, columns.bytes_sent, columns.bytes_received)
    assert [column.tolist() for column in counts] == [[0, 2], [3, 1], [700, 0], [9000, 0]]
    remotes = zip(columns.remote_high.tolist(), columns.remote_low.tolist(), strict=True)
    assert [joined_remote(*halves) for halves in remotes] == [mapped("10.0.0.2"), ip_address("2001:db8::1").packed]
    assert times(flows()) == [(NOW - 9 * SECOND, NOW - SECOND), (NOW - 10 * SECOND, NOW)]


def test_processes_are_told_or_not_at_all() -> None:
    columns = columns_of(flows(processes=["", "exe:/usr/bin/psql"], process=[1, 0]), NOW)
    assert (columns.processes, columns.process.tolist()) == (("", "exe:/usr/bin/psql"), [1, 0])
    older = columns_of(flows(), NOW)
    assert (older.processes, older.process.tolist()) == (("",), [0, 0])
    # Else one letter that only another Python can print would cost a host all of its reports.
    unprintable = columns_of(flows(processes=["unit:\x1b[2J", "unit:a.service"], process=[1, 0]), NOW)
    assert (unprintable.processes, unprintable.process.tolist()) == (("", "unit:a.service"), [1, 0])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"process": [0, 0]}, "process of flows holds 0, which is over -1"),
        ({"processes": ["unit:a.service"]}, "process holds 0 of 2 flows"),
        ({"processes": ["unit:a.service"], "process": [0]}, "process holds 1 of 2 flows"),
        ({"processes": ["unit:a.service"], "process": [0, 1]}, "process of flows holds 1, which is over 0"),
        ({"processes": ["nginx"], "process": [0, 0]}, "'nginx' in a report is no identity of a process"),
        ({"processes": ["exe:/" + "x" * 300], "process": [0, 0]}, "no identity of a process"),
        ({"workload": [1]}, "remotes of 1 flows has 32 bytes"),
        ({"remotes": mapped("10.0.0.2")}, "remotes of 2 flows has 16 bytes"),
        ({"rule": [1]}, "rule holds 1 of 2 flows"),
        ({"verdict": [0, 1, 2]}, "verdict holds 3 of 2 flows"),
        ({"last_ms": []}, "last_ms holds 0 of 2 flows"),
        ({"workload": [2, 0]}, "workload of flows holds 2, which is over 1"),
        ({"rules": []}, "rule of flows holds 1, which is over -1"),
        ({"direction": [0, 2]}, "direction of flows holds 2"),
        ({"protocol": [6, 256]}, "protocol of flows holds 256"),
        ({"port": [65536, 0]}, "port of flows holds 65536"),
        ({"verdict": [0, 3]}, "verdict of flows holds 3"),
        ({"flows": [2**53 + 1, 1]}, "flows of flows holds"),
        ({"bytes_sent": [2**64 - 1, 0]}, "bytes_sent of flows holds"),
        ({"lost": 2**53 + 1}, "sane lost count"),
        ({"workloads": ["host", "Shop Web"]}, "'Shop Web' in a report is no name of a workload"),
        ({"workloads": ["host", ""]}, "'' in a report is no name of a workload"),
        ({"rules": ["", "\x1b[2J"]}, "no name of a rule"),
        ({"rules": ["", "r" * 41]}, "no name of a rule"),
    ],
)
def test_columns_that_do_not_hold_together_are_refused(columns: dict[str, Any], words: str) -> None:
    with pytest.raises(WireError) as caught:
        columns_of(flows(**columns), NOW)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "large",
    [
        {"workload": [0] * (MOST_FLOWS + 1)},
        {"workloads": ["w"] * 5000},
        {"rules": ["r"] * 5000},
        {"processes": ["exe:/x"] * 5000},
    ],
)
def test_a_batch_over_the_bounds_is_refused_before_its_columns_are_read(large: dict[str, Any]) -> None:
    with pytest.raises(LimitError, match="at most 10000 flows"):
        columns_of(flows(**large), NOW)


@given(st.binary(max_size=300))
def test_whatever_the_bytes_a_batch_is_refused_or_becomes_rows(data: bytes) -> None:
    message = agent_pb2.FlowBatch()
    message.MergeFromString(flows().SerializeToString())
    try:
        message.MergeFromString(data)
    except Exception:  # noqa: BLE001 - protobuf's own error: grpc refuses such a message before we see it
        return
    try:
        columns = columns_of(message, NOW)
    except SegctlError:
        return
    assert len({len(getattr(columns, name)) for name in SHARED}) == 1
    for first, last in times(message):
        assert 0 <= first <= last <= NOW + HOUR_US


@pytest.mark.parametrize("clock", [NOW - OLDEST - HOUR_US, 20 * SECOND, NOW + 2 * HOUR_US, 2**62])
def test_a_window_of_a_wrong_clock_ends_when_it_was_told(clock: int) -> None:
    wrong = flows(from_us=clock - 10 * SECOND, until_us=clock)
    assert times(wrong) == [(NOW - 9 * SECOND, NOW - SECOND), (NOW - 10 * SECOND, NOW)]


@pytest.mark.parametrize("start", [NOW + 1, NOW - 25 * HOUR_US, -(2**63)])
def test_flows_of_a_window_that_is_none_were_just_now(start: int) -> None:
    assert set(times(flows(from_us=start))) == {(NOW, NOW)}


def test_a_flow_never_begins_after_it_was_last_seen() -> None:
    assert times(flows(first_ms=[9001, 0]))[0] == (NOW - SECOND, NOW - SECOND)


def test_times_beyond_the_window_are_brought_to_its_end() -> None:
    assert times(flows(first_ms=[60_000, 0], last_ms=[3_600_000, 0]))[0] == (NOW, NOW)


def test_a_host_counts_hits_of_its_own_rules_only() -> None:
    told = [
        agent_pb2.RuleHits(rule="web-db", count=4, last_hit_us=NOW + HOUR_US),
        agent_pb2.RuleHits(rule="theirs", ingress=True, count=9, last_hit_us=5),
    ]
    taken, strange = hits_of("web1", told, frozenset({"web-db"}), NOW)
    assert taken == (HitRecord("web1", "web-db", False, 4, NOW),)
    assert strange == ("theirs",)


@pytest.mark.parametrize(
    "bad",
    [
        [agent_pb2.RuleHits(rule="", count=1)],
        [agent_pb2.RuleHits(rule="x\n", count=1)],
        [agent_pb2.RuleHits(rule="r", count=2**53 + 1)],
        [agent_pb2.RuleHits(rule="r", count=1, last_hit_us=-1)],
        [agent_pb2.RuleHits(rule="r", count=1)] * 5000,
    ],
)
def test_malformed_hits_are_refused(bad: list[agent_pb2.RuleHits]) -> None:
    with pytest.raises((WireError, LimitError)):
        hits_of("web1", bad, frozenset(), NOW)


async def fleet(lab: ControllerLab) -> tuple[FakeAgent, FakeAgent]:
    web = await lab.enrol("web1", {"role": "web", "env": "prod"})
    db = await lab.enrol("db1", {"role": "db", "env": "prod"})
    for agent, address in ((web, "10.0.0.1"), (db, "10.0.0.2")):
        async with agent.session([address]) as session:
            await session.receive()
    await lab.push(SHOP)
    return web, db


async def asked(lab: ControllerLab, **fields: Any) -> admin_pb2.FlowsReply:
    return await lab.admin().Flows(admin_pb2.FlowsRequest(**fields))


async def use(lab: ControllerLab, rule: str = "") -> dict[str, tuple[int, int, int, bool]]:
    reply = await lab.admin().RuleUse(admin_pb2.RuleUseRequest(rule=rule))
    return {u.rule: (u.count, u.last_hit_us, u.hosts, u.in_policy) for u in reply.rules}


async def test_a_flow_is_told_with_both_ends(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web, db = await fleet(lab)
        await report(web, batch(flows=flows(lost=2)))
        theirs = flows(
            workloads=["shop-db"],
            rules=["web-db"],
            workload=[0, 0],
            rule=[0, 0],
            direction=[1, 1],
            remotes=mapped("10.0.0.1") + mapped("10.9.9.9"),
            port=[5432, 0],
            protocol=[6, 132],
        )
        await report(db, batch(flows=theirs))
        reply = await asked(lab)
        assert reply.lost == 2
        by_host = {(f.host, f.service.protocol): f for f in reply.flows}
        out, back = by_host["web1", "tcp"], by_host["db1", "tcp"]
        assert out == admin_pb2.FlowRecord(
            host="web1",
            workload="shop-web",
            remote=ip_address("10.0.0.2").packed,
            peer_host="db1",
            peer_workload="shop-db",
            service=out.service,
            service_name="pg",
            rule="web-db",
            verdict="allowed",
            flows=3,
            bytes_sent=700,
            bytes_received=9000,
            first_seen_us=NOW - 9 * SECOND,
            last_seen_us=NOW - SECOND,
        )
        assert (out.service.low, out.service.high) == (5432, 5432)
        assert (back.ingress, back.peer_host, back.peer_workload) == (True, "web1", "shop-web")
        ping = by_host["web1", "icmpv6"]
        assert (ping.peer_host, ping.verdict, ping.rule, len(ping.remote)) == ("", "observed", "", 16)
        assert by_host["db1", "ip"].service.low == 132


async def test_flows_are_filtered_and_an_unknown_host_is_named(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web, _ = await fleet(lab)
        await report(web, batch(flows=flows()))
        assert [f.workload for f in (await asked(lab, limit=1)).flows] == ["host"]
        assert [f.workload for f in (await asked(lab, workload="shop-web")).flows] == ["shop-web"]
        assert [f.rule for f in (await asked(lab, rule="web-db")).flows] == ["web-db"]
        assert list((await asked(lab, host="db1")).flows) == []
        assert list((await asked(lab, since_us=NOW + SECOND)).flows) == []
        for fields, code in (
            ({"host": "nobody"}, grpc.StatusCode.NOT_FOUND),
            ({"since_us": -1}, grpc.StatusCode.INVALID_ARGUMENT),
            ({"rule": "r" * 100}, grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asked(lab, **fields)
            assert caught.value.code() is code


async def test_what_was_acknowledged_is_there_once_after_a_restart(tmp_path: Path) -> None:
    hits = [agent_pb2.RuleHits(rule="web-db", count=3, last_hit_us=NOW)]
    async with running_controller(tmp_path) as lab:
        web, _ = await fleet(lab)
        await report(web, batch(flows=flows(), hits=hits))
    async with running_controller(tmp_path) as lab:
        again = FakeAgent(lab, web.name, web.identity)
        assert await report(again, batch(flows=flows(), hits=hits)) == [1]
        assert [f.flows for f in (await asked(lab)).flows] == [3, 1]
        assert await use(lab) == {"web-db": (3, NOW, 1, True)}


async def test_a_malformed_column_refuses_the_batch_whole(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web, _ = await fleet(lab)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await report(web, batch(flows=flows(port=[1]), hits=[agent_pb2.RuleHits(rule="web-db", count=1)]))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await use(lab) == {"web-db": (0, 0, 0, True)}


async def test_rules_are_told_with_the_end_that_saw_more_and_those_never_hit(tmp_path: Path) -> None:
    unused = "  - {name: unused, from: {role: web}, to: {role: db}, allow: [tcp/99], owner: team, why: later}\n"
    async with running_controller(tmp_path) as lab:
        web, db = await fleet(lab)
        await report(web, batch(1, hits=[agent_pb2.RuleHits(rule="web-db", count=5, last_hit_us=NOW - 9)]))
        await report(db, batch(1, hits=[agent_pb2.RuleHits(rule="web-db", ingress=True, count=7, last_hit_us=NOW - 5)]))
        await report(web, batch(2, hits=[agent_pb2.RuleHits(rule="web-db", count=2, last_hit_us=NOW - 10)]))
        assert await use(lab) == {"web-db": (7, NOW - 5, 2, True)}
        await lab.push(SHOP.replace("web-db, from", "orders, from").replace("essentials:", unused + "essentials:"))
        assert await use(lab) == {
            "orders": (0, 0, 0, True),
            "unused": (0, 0, 0, True),
            "web-db": (7, NOW - 5, 2, False),
        }
        assert list(await use(lab, "web-db")) == ["web-db"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await use(lab, "nothing")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_rules_of_others_are_refused_and_told_once(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web, db = await fleet(lab)
        strange = [agent_pb2.RuleHits(rule=f"x{n}", count=9) for n in range(7)]
        good = agent_pb2.RuleHits(rule="web-db", count=1, last_hit_us=NOW)
        assert await report(web, batch(1, hits=[*strange, good]), batch(2, hits=strange)) == [1, 2]
        assert await use(lab) == {"web-db": (1, NOW, 1, True)}
        [event] = (await lab.admin().Status(admin_pb2.StatusRequest())).events
        assert (event.host, event.event.kind) == ("web1", "report")
        assert "(x0, x1, x2, x3, x4 and 2 more)" in event.event.message
        assert await report(db, batch(1, hits=strange[:1])) == [1]
        assert len((await lab.admin().Status(admin_pb2.StatusRequest())).events) == 2


async def test_a_rule_of_a_generation_ago_may_still_be_told(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web, _ = await fleet(lab)
        await lab.push(WIDER.replace("web-db, from", "orders, from"))
        await report(web, batch(1, hits=[agent_pb2.RuleHits(rule="web-db", count=1, last_hit_us=NOW)]))
        assert (await use(lab))["web-db"] == (1, NOW, 1, False)
        assert list((await lab.admin().Status(admin_pb2.StatusRequest())).events) == []


async def test_totals_of_an_old_rule_are_no_lie_after_a_restart(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web, _ = await fleet(lab)
        await report(web, batch(1, hits=[agent_pb2.RuleHits(rule="web-db", count=1, last_hit_us=NOW)]))
        await lab.push(SHOP.replace("web-db, from", "orders, from"))
    async with running_controller(tmp_path) as lab:
        again = FakeAgent(lab, web.name, web.identity)
        await report(again, batch(2, hits=[agent_pb2.RuleHits(rule="web-db", count=3, last_hit_us=NOW)]))
        assert (await use(lab))["web-db"] == (3, NOW, 1, False)
        assert list((await lab.admin().Status(admin_pb2.StatusRequest())).events) == []


async def test_a_batch_over_the_bound_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web, _ = await fleet(lab)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await report(web, batch(flows=flows(workload=[0] * 1_000_000)))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # or it would come again and again


async def test_a_controller_that_starts_knows_the_rules_before_it_judges(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web, _ = await fleet(lab)
    async with running_controller(tmp_path) as lab:
        again = FakeAgent(lab, web.name, web.identity)
        await report(again, batch(1, hits=[agent_pb2.RuleHits(rule="web-db", count=1, last_hit_us=NOW)]))
        assert (await use(lab))["web-db"] == (1, NOW, 1, True)


async def test_a_host_that_floods_flows_is_read_more_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segctl_controller.reports.FLOW_BURST", 2.0)
    monkeypatch.setattr("segctl_controller.reports.FLOW_RATE", 4.0)
    async with running_controller(tmp_path) as lab:
        web, _ = await fleet(lab)
        began = time.monotonic()
        await report(web, *(batch(n, flows=flows()) for n in (1, 2, 3)))
        assert time.monotonic() - began > 0.9
