"""Agent.Report and Admin.Denied: stored once, enriched, followed live."""

from __future__ import annotations

import asyncio
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest
from segctl.policy.parse import parse_policy
from segctl.policy.source import SourceFile
from segctl.proto.v1 import admin_pb2, agent_pb2, hostpolicy_pb2
from segctl_controller.feed import MOST_WAITING, Feed
from segctl_controller.pace import Pace
from segctl_controller.reports import BURST, RATE, ReportService
from segctl_controller.rpc import Caller
from segctl_controller.setup import remove_operator
from segctl_controller.store.records import DenialRecord, Role

from tests.controller_harness import SECONDS, ControllerLab, FakeAgent, eventually, running_controller
from tests.unit.segctl_controller.policies import SHOP

NOW = time.time_ns() // 1000


def denial(remote: str = "10.0.0.1", port: int = 22, count: int = 1, **fields: Any) -> agent_pb2.Denial:
    values: dict[str, Any] = {
        "ingress": True,
        "verdict": "denied",
        "workload": "host",
        "remote": ip_address(remote).packed,
        "service": hostpolicy_pb2.PortRange(protocol="tcp", low=port, high=port),
        "process": agent_pb2.ProcessInfo(pid=7, exe="/usr/sbin/sshd", user="root", unit="ssh.service"),
        "count": count,
        "first_seen_us": NOW,
        "last_seen_us": NOW + 5,
    }
    return agent_pb2.Denial(**{**values, **fields})


def batch(sequence: int, *denials: agent_pb2.Denial, **fields: Any) -> agent_pb2.ReportBatch:
    return agent_pb2.ReportBatch(epoch="e1", sequence=sequence, denials=denials, **fields)


async def report(agent: FakeAgent, *batches: agent_pb2.ReportBatch) -> list[int]:
    """The acknowledged sequences."""
    async with agent.reports() as stream, asyncio.timeout(SECONDS):
        acks = []
        for one in batches:
            await stream.write(one)
            acks.append((await stream.read()).sequence)
        return acks


async def denied(lab: ControllerLab, **fields: Any) -> list[admin_pb2.DeniedReply]:
    return [reply async for reply in lab.admin().Denied(admin_pb2.DeniedRequest(**fields))]


async def addressed(lab: ControllerLab, agent: FakeAgent, address: str, **fields: Any) -> None:
    """Let the host hold an address, as if it had been connected once."""
    async with agent.session([address], **fields) as session:
        await session.receive()

        async def so() -> bool:
            return address in (await lab.hosts())[agent.name].addresses

        await eventually(so)


async def test_a_denial_is_told_with_peer_reason_and_suggestion(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {"role": "web", "env": "prod"})
        db = await lab.enrol("db1", {"role": "db", "env": "prod"})
        dev = await lab.enrol("dev1", {"role": "web", "env": "dev"})
        await lab.push(SHOP)
        await addressed(lab, web, "10.0.0.1")
        await addressed(lab, dev, "10.0.0.3")
        listener = agent_pb2.Listener(protocol="tcp", address=bytes(4), port=5432, workload="shop-db")
        await addressed(lab, db, "10.0.0.2", listeners=[listener])
        by_web = denial("10.0.0.2", 5432, ingress=False, process=agent_pb2.ProcessInfo(pid=1, unit="cron.service"))
        from_dev = denial("10.0.0.3", 5432, workload="shop-db")
        from_outside = denial("203.0.113.9", 443, count=3)
        assert await report(db, batch(1, denial(), from_dev, from_outside)) == [1]
        assert await report(web, batch(1, by_web)) == [1]
        ssh, dev_pg, outside, egress = [r.connection for r in await denied(lab)]
        assert (ssh.host, ssh.peer_host, ssh.reason, dict(ssh.peer_tags)) == (
            "db1",
            "web1",
            "default",
            {"role": "web", "env": "prod"},
        )
        assert dict(ssh.tags) == {"role": "db", "env": "prod"}
        assert "allow: [tcp/22]" in ssh.suggestion
        assert (ssh.peer_workload, ssh.service_name) == ("host", "")
        assert (dev_pg.reason, dev_pg.rule, dev_pg.suggestion) == ("boundary", "dev-stays-out", "")
        assert dev_pg.service_name == "pg"
        assert (outside.peer_host, outside.denial.count) == ("", 3)
        assert "office" in outside.suggestion
        assert (egress.peer_host, egress.peer_workload) == ("db1", "shop-db")
        assert egress.denial.process.unit == "cron.service"


async def test_a_batch_sent_twice_counts_once_and_is_acknowledged_twice(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        db = await lab.enrol("db1", {})
        assert await report(db, batch(1, denial(count=2))) == [1]
        assert await report(db, batch(1, denial(count=2)), batch(2, denial(count=3))) == [1, 2]
        [only] = await denied(lab)
        assert only.connection.denial.count == 5


async def test_what_was_acknowledged_survives_a_restart(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        db = await lab.enrol("db1", {})
        await report(db, batch(1, denial(), lost=4))
    async with running_controller(tmp_path) as lab:
        again = FakeAgent(lab, db.name, db.identity)
        assert await report(again, batch(1, denial(), lost=4)) == [1]
        lost, only = await denied(lab)
        assert lost.lost == 4
        assert only.connection.denial.count == 1


async def test_a_follower_sees_history_then_what_comes(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        db, web = await lab.enrol("db1", {}), await lab.enrol("web1", {})
        await report(db, batch(1, denial()))
        call = lab.admin().Denied(admin_pb2.DeniedRequest(follow=True, host="db1"))
        async with asyncio.timeout(SECONDS):
            assert (await call.read()).connection.denial.service.low == 22
            await report(web, batch(1, denial(port=99)))
            began = time.monotonic()
            await report(db, batch(2, denial(port=23), lost=6))
            lost, fresh = await call.read(), await call.read()
        assert time.monotonic() - began < 1.0
        assert lost.lost == 6
        assert (fresh.connection.host, fresh.connection.denial.service.low) == ("db1", 23)
        call.cancel()


async def test_a_follower_knows_when_it_follows(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        db = await lab.enrol("db1", {})
        call = lab.admin().Denied(admin_pb2.DeniedRequest(follow=True))
        async with asyncio.timeout(SECONDS):
            await call.initial_metadata()
            await report(db, batch(1, denial()))
            assert (await call.read()).connection.host == "db1"
        call.cancel()


async def test_denials_are_filtered(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        db = await lab.enrol("db1", {})
        await report(db, batch(1, denial(workload="shop-db"), denial(port=23)))
        assert len(await denied(lab, limit=1)) == 1
        assert len(await denied(lab, workload="shop-db")) == 1
        assert await denied(lab, host="other") == []
        assert await denied(lab, since_us=NOW + 10**9) == []


async def test_events_are_shown_in_the_status(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        db = await lab.enrol("db1", {})
        event = agent_pb2.Event(
            kind="tamper", message="table was changed", at_us=NOW, culprit_pid=9, culprit_name="nft"
        )
        await report(db, batch(1, events=[event]))
        [shown] = (await lab.admin().Status(admin_pb2.StatusRequest())).events
        assert (shown.host, shown.event) == ("db1", event)


@pytest.mark.parametrize(
    "bad",
    [
        batch(0, denial()),
        agent_pb2.ReportBatch(sequence=1),
        batch(1, denial(verdict="maybe")),
        batch(1, denial(remote="10.0.0.1", count=0)),
        batch(1, agent_pb2.Denial(verdict="denied", count=1)),
        batch(1, denial(service=hostpolicy_pb2.PortRange(protocol="tcp", low=1, high=9))),
        batch(1, denial(workload="w" * 100)),
        batch(1, *[denial()] * 1001),
    ],
)
async def test_a_malformed_batch_is_refused_whole(tmp_path: Path, bad: agent_pb2.ReportBatch) -> None:
    async with running_controller(tmp_path) as lab:
        db = await lab.enrol("db1", {})
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await report(db, bad)
        # Any other status has an agent send it again, for ever.
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await denied(lab) == []


async def test_another_ip_protocol_is_told_and_no_rule_proposed(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        db = await lab.enrol("db1", {"role": "db", "env": "prod"})
        dev = await lab.enrol("dev1", {"role": "web", "env": "dev"})
        await lab.push(SHOP)
        await addressed(lab, dev, "10.0.0.3")
        sctp, vrrp = (hostpolicy_pb2.PortRange(protocol="ip", low=n, high=n) for n in (132, 112))
        denials = (
            denial("10.0.0.3", service=sctp),
            denial("224.0.0.18", service=vrrp, ingress=False, count=3),
            denial("224.0.0.18", service=vrrp, ingress=False, count=4),
        )
        assert await report(db, batch(1, *denials)) == [1]
        told = [reply.connection for reply in await denied(lab)]
        assert [(d.denial.service.protocol, d.denial.service.low, d.denial.count) for d in told] == [
            ("ip", 132, 1),
            ("ip", 112, 7),
        ]
        assert [(d.peer_host, d.reason, d.suggestion, d.service_name) for d in told] == [
            ("dev1", "boundary", "", ""),
            ("", "default", "", ""),
        ]


async def test_a_removed_host_reports_nothing_more(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        db = await lab.enrol("db1", {})
        await lab.admin().RemoveHost(admin_pb2.RemoveHostRequest(host="db1"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await report(db, batch(1, denial()))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_slow_follower_loses_the_oldest_and_learns_how_many() -> None:
    feed = Feed()
    with feed.follow("", "") as follower:
        for number in range(MOST_WAITING + 3):
            feed.publish("h", (DenialRecord("h", "w", str(number), 2, 0, 0, b"", number),), 0)
        feed.publish("h", (), 5)
        rows, lost = await follower.take()
    assert [rows[0].id, len(rows)] == [3, MOST_WAITING]
    assert lost == 3 * 2 + 5


def test_a_host_that_floods_is_read_more_slowly() -> None:
    now = [0.0]
    pace = Pace(RATE, BURST, lambda: now[0])
    assert [pace.delay() for _ in range(int(BURST))] == [0.0] * int(BURST)
    assert pace.delay() == pytest.approx(1 / RATE)
    now[0] = 100.0
    assert pace.delay() == 0.0


async def test_a_unit_name_cannot_smuggle_policy_into_the_suggestion(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        evil = await lab.enrol("evil", {"role": "web"})
        await lab.push(SHOP)
        smuggled = 'x.service"}}\nrules:\n  - {name: evil, from: {}, to: {}}\npeers:\n  y: {unit: "x.service'
        units = (smuggled, "*.service", "a[b].service", "plain")
        rows = [
            denial("203.0.113.9", port, process=agent_pb2.ProcessInfo(unit=unit)) for port, unit in enumerate(units, 1)
        ]
        await report(evil, batch(1, *rows))
        suggestions = [r.connection.suggestion for r in await denied(lab)]
        assert len(suggestions) == len(units)
        for text in suggestions:
            files = [SourceFile("shop.yaml", SHOP.encode()), SourceFile("more.yaml", text.encode())]
            parsed = parse_policy(files).policy
            assert parsed is not None, text
            assert set(parsed.workloads) == {"shop-db"}
            assert {r.source.peer for r in parsed.rules} == {None, "office"}
            assert len(parsed.rules) == 2


async def test_a_login_is_opened_by_its_user_and_never_for_root(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {"role": "web"})
        tests = "tests:\n  - {from: {role: web}, to: {peer: office}, deny: [tcp/99]}\n"
        await lab.push(SHOP + tests)
        processes = {
            1: agent_pb2.ProcessInfo(unit="session-3.scope", user="alice"),
            2: agent_pb2.ProcessInfo(unit="session-3.scope", user="root"),
            99: agent_pb2.ProcessInfo(unit="cron.service", user="root"),
        }
        rows = [denial("203.0.113.9", port, ingress=False, process=p) for port, p in processes.items()]
        await report(web, batch(1, *rows))
        told = {r.connection.denial.service.low: r.connection.suggestion for r in await denied(lab)}
        assert "  alice:\n    on: {role: web}\n    process: {user: alice}\n" in told[1]
        assert told[2].startswith("# root in a login on web1 (session-3.scope) is no workload to open: ")
        line = (SHOP + tests).splitlines().index(tests.splitlines()[1]) + 1
        assert told[99].endswith(f".yaml:{line} forbids this: talk to the people who wrote it")
        assert all(text.count("\n") == 0 for port, text in told.items() if port != 1)


async def test_a_removed_host_cannot_keep_a_report_stream_open(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        db = await lab.enrol("db1", {})
        await lab.admin().RemoveHost(admin_pb2.RemoveHostRequest(host="db1"))
        async with db.reports() as stream, asyncio.timeout(SECONDS):
            assert await stream.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_more_streams_give_a_host_no_more_reports(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        db = await lab.enrol("db1", {})
        began = time.monotonic()
        each = int(BURST + RATE) // 3 + 1
        parts = [[agent_pb2.ReportBatch(epoch=str(s), sequence=n + 1) for n in range(each)] for s in range(3)]
        await asyncio.gather(*(report(db, *part) for part in parts))
        assert time.monotonic() - began > 1.0


async def test_a_host_that_goes_hides_no_later_denial_from_followers(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        gone, stays = await lab.enrol("gone", {}), await lab.enrol("stays", {})
        await report(stays, batch(1, denial()))
        await report(gone, batch(1, *(denial(port=port) for port in range(1, 20))))
        call = lab.admin().Denied(admin_pb2.DeniedRequest(follow=True))
        async with asyncio.timeout(SECONDS):
            for _ in range(20):
                await call.read()
            await lab.admin().RemoveHost(admin_pb2.RemoveHostRequest(host="gone"))
            await report(stays, batch(2, denial(port=99)))
            assert (await call.read()).connection.denial.service.low == 99
        call.cancel()


async def test_a_removed_operator_stops_reading_even_while_denials_never_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segctl_controller.gate.RECHECK", 0.2)
    async with running_controller(tmp_path) as lab:
        db = await lab.enrol("db1", {})
        lab.operator("vera", Role.VIEWER)
        call = lab.admin("vera").Denied(admin_pb2.DeniedRequest(follow=True))
        await call.initial_metadata()

        async def denials_without_end() -> None:
            async with db.reports() as stream:
                for sequence in range(1, 10_000):
                    await stream.write(batch(sequence, denial()))
                    await stream.read()
                    await asyncio.sleep(0.05)

        endless = asyncio.create_task(denials_without_end())
        assert (await call.read()).connection.host == "db1"
        remove_operator(lab.controller.db.store, "vera", lab.controller.clock)
        async with asyncio.timeout(SECONDS):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                while await call.read() is not grpc.aio.EOF:
                    pass
                await call
        endless.cancel()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_denials_are_described_in_turns_with_the_rest(tmp_path: Path) -> None:
    rules = "".join(
        f"  - {{name: r{n}, from: {{role: web}}, to: {{workload: shop-db}}, allow: [tcp/{n}], owner: t, why: w}}\n"
        for n in range(1000, 1500)
    )
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {"role": "web", "env": "prod"})
        await lab.push(SHOP.replace("essentials:", rules + "essentials:"))
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        flood = batch(1, *(denial(f"10.1.{n // 250}.{n % 250}", 1) for n in range(1000)))
        caller = Caller("host", "web1", lab.controller.fleet.hosts["web1"].serial)
        service = ReportService(
            lab.controller.config.fleet,
            lab.controller.registry,
            lab.controller.db,
            lab.controller.flows,
            lab.controller.clock,
            lab.controller.feed,
        )
        task = asyncio.create_task(others())
        made = await service._batch(caller, flood)
        task.cancel()
        assert len(made.denials) == 1000
        assert turns > 5
        assert web.name == "web1"
