"""The Admin service: roles, push, rollback, plan, explain, tags, tokens."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest
from segctl.proto.v1 import admin_pb2
from segctl_controller.store.records import Role
from segctl_controller.store.sql import SqlStore

from tests.controller_harness import ControllerLab, eventually, running_controller
from tests.unit.segctl_controller.policies import BROKEN_TEST, SHOP, WIDER

Code = grpc.StatusCode


async def refusal(awaitable: Awaitable[Any]) -> tuple[Code, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value.code(), caught.value.details() or ""


async def everything(stream: Any) -> list[Any]:
    return [message async for message in stream]


def source(policy: str) -> admin_pb2.PolicySource:
    return admin_pb2.PolicySource(files=[admin_pb2.SourceFile(name="policy.yaml", content=policy.encode())])


async def test_every_method_asks_for_its_role(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        lab.operator("vera", Role.VIEWER)
        lab.operator("ed", Role.EDITOR)
        vera, ed = lab.admin("vera"), lab.admin("ed")
        for_editors = [
            lambda a: everything(a.Push(admin_pb2.PushRequest(source=source(SHOP)))),
            lambda a: everything(a.Rollback(admin_pb2.RollbackRequest())),
        ]
        for_admins = [
            lambda a: a.SetTags(admin_pb2.SetTagsRequest(host="x")),
            lambda a: a.RemoveHost(admin_pb2.RemoveHostRequest(host="x")),
            lambda a: a.CreateToken(admin_pb2.CreateTokenRequest()),
            lambda a: a.ListTokens(admin_pb2.ListTokensRequest()),
            lambda a: a.RevokeToken(admin_pb2.RevokeTokenRequest(id="x")),
            lambda a: a.Audit(admin_pb2.AuditRequest()),
        ]
        for call in for_editors + for_admins:
            code, text = await refusal(call(vera))
            assert code is Code.PERMISSION_DENIED
            assert "'vera' has the role viewer" in text
        for call in for_admins:
            code, text = await refusal(call(ed))
            assert code is Code.PERMISSION_DENIED
            assert "needs the role admin" in text
        assert (await vera.Status(admin_pb2.StatusRequest())).fleet == lab.controller.config.fleet
        assert not (await vera.Status(admin_pb2.StatusRequest())).HasField("active")
        assert (await everything(ed.Push(admin_pb2.PushRequest(source=source(SHOP)))))[0].stored.author == "ed"


async def test_a_push_ends_when_every_connected_host_has_proved_it(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web, db, away = [await lab.enrol(n, {"role": r}) for n, r in (("web1", "web"), ("db1", "db"), ("away", "web"))]
        async with web.session(["10.0.0.1"]) as one, db.session(["10.0.0.2"]) as two:
            await one.receive()
            await two.receive()
            async with one.proving(), two.proving():
                progress = await lab.push(SHOP, wait=10, message="first")
        assert away.name == "away"
        stored = progress[0].stored
        assert (stored.number, stored.message, stored.active, stored.state) == (1, "first", False, "trial")
        states = {p.host.host: p.host for p in progress if p.WhichOneof("kind") == "host"}
        assert {n: s.state for n, s in states.items()} == {"web1": "proven", "db1": "proven", "away": "offline"}
        assert states["web1"].kernel_digest == "k" * 64
        done = progress[-1].done
        assert (done.proven, done.refused, done.offline, done.waiting, done.undone) == (2, 0, 1, 0, False)


async def test_a_host_that_says_nothing_is_waited_for_and_named(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {"role": "web"})
        async with web.session(["10.0.0.1"]) as session:
            await session.receive()
            progress = await lab.push(SHOP, wait=1)
        assert progress[-1].done.undone
        assert progress[-1].done.why == "web1 was not ready within 1 s"


async def test_an_editor_who_hangs_up_changes_nothing(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {"role": "web"})
        async with web.session(["10.0.0.1"]) as session:
            await session.receive()
            call = lab.admin().Push(admin_pb2.PushRequest(source=source(SHOP), wait_seconds=60))
            assert (await call.read()).stored.number == 1
            call.cancel()
            assert (await session.acknowledge(confirmed=True)).generation == 1
            assert (await lab.admin().Status(admin_pb2.StatusRequest())).active.number == 1


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("version: 1\nrules: [", "policy.yaml:"),
        (SHOP.replace("role: web}", "role: wbe}"), "wbe"),
        (BROKEN_TEST, "policy.yaml:"),
        ("", "policy.yaml"),
        ("a: " * 3, "policy.yaml"),
    ],
)
async def test_a_policy_with_errors_is_not_stored(tmp_path: Path, policy: str, words: str) -> None:
    async with running_controller(tmp_path) as lab:
        code, text = await refusal(lab.push(policy))
        assert code is Code.INVALID_ARGUMENT
        assert words in text
        plan = await lab.admin().Plan(source(policy))
        assert any(f.severity == "error" for f in plan.findings)
        assert not (await lab.admin().History(admin_pb2.HistoryRequest())).generations


async def test_a_full_disk_is_told_to_the_caller_and_nothing_is_half_stored(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        store = lab.controller.db.store
        assert isinstance(store, SqlStore)
        with store._engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        bulky = SHOP + "".join(f"# {secrets.token_hex(40)}\n" for _ in range(1000))
        code, text = await refusal(lab.push(bulky))
        assert (code, "nothing was stored" in text) == (Code.RESOURCE_EXHAUSTED, True)
        assert not (await lab.admin().Status(admin_pb2.StatusRequest())).HasField("active")
        assert lab.controller.fleet.active.number == 0
        with store._engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 1000}")
        assert (await lab.push(bulky))[0].stored.number == 1


async def test_a_policy_over_the_limit_is_refused_whole(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        code, text = await refusal(lab.push("#" * (8 * 1024 * 1024 + 1)))
        assert code is Code.RESOURCE_EXHAUSTED
        assert "at most" in text
        code, _ = await refusal(lab.push("#" * (20 * 1024 * 1024)))
        assert code is Code.RESOURCE_EXHAUSTED


async def test_a_push_must_fit_the_plan(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        await lab.enrol("web1", {"role": "web"})
        plan = await lab.admin().Plan(source(SHOP))
        assert (plan.base_generation, list(plan.hosts)) == (0, ["web1"])
        await lab.push(SHOP, expect_digest=plan.digest)
        wider = await lab.admin().Plan(source(WIDER))
        assert wider.base_generation == 1
        code, text = await refusal(lab.push(SHOP, expect_digest=wider.digest))
        assert (code, "not the one that was planned" in text) == (Code.ABORTED, True)
        await lab.push(WIDER, expect_digest=wider.digest, expect_base_generation=1)
        code, text = await refusal(lab.push(SHOP, expect_base_generation=1))
        assert (code, "another push came between" in text) == (Code.ABORTED, True)
        assert len((await lab.admin().History(admin_pb2.HistoryRequest())).generations) == 2


async def test_a_plan_says_what_changes(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        await lab.enrol("web1", {"role": "web"})
        await lab.enrol("db1", {"role": "db"})
        await lab.push(SHOP)
        plan = await lab.admin().Plan(source(WIDER))
        assert [(c.allowed, c.service, c.rule) for c in plan.changes] == [(True, "tcp/8080", "web-db")]
        assert list(plan.changes[0].hosts) == ["db1", "web1"]
        same = await lab.admin().Plan(source(SHOP))
        assert (list(same.changes), list(same.hosts)) == ([], [])
        check = await lab.admin().Check(source(SHOP))
        assert check.hosts == 2


async def test_rollback_is_a_new_generation_with_the_old_content(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        admin = lab.admin()
        code, _ = await refusal(everything(admin.Rollback(admin_pb2.RollbackRequest())))
        assert code is Code.NOT_FOUND
        await lab.push(SHOP)
        await lab.push(WIDER)
        progress = await everything(admin.Rollback(admin_pb2.RollbackRequest()))
        assert (progress[0].stored.number, progress[0].stored.rollback_of) == (3, 1)
        assert progress[0].stored.message == ""
        code, text = await refusal(everything(admin.Rollback(admin_pb2.RollbackRequest())))
        assert code is Code.INVALID_ARGUMENT
        assert "generation 3 is itself a rollback, to 1: name the GENERATION you want" in text
        first, third = [await admin.GetGeneration(admin_pb2.GetGenerationRequest(number=n)) for n in (1, 3)]
        assert first.source == third.source
        assert first.digest == third.digest
        assert (first.active, third.active) == (False, True)
        code, text = await refusal(everything(admin.Rollback(admin_pb2.RollbackRequest(generation=77))))
        assert (code, "generation 77" in text) == (Code.NOT_FOUND, True)
        actions = [e.action for e in (await admin.Audit(admin_pb2.AuditRequest())).entries]
        assert actions[:6] == ["confirm", "rollback", "confirm", "push", "confirm", "push"]


async def test_explain_asks_policy_and_kernel_and_says_when_they_differ(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web, db = await lab.enrol("web1", {"role": "web"}), await lab.enrol("db1", {"role": "db"})
        await lab.push(SHOP)
        request = admin_pb2.ExplainRequest(source="web1", destination="db1/shop-db", service="pg", live=True)
        async with (
            web.session(["10.0.0.1"]) as one,
            db.session(["10.0.0.2"]) as two,
            one.proving("allowed"),
            two.proving("denied"),
        ):
            await settled(lab, "web1", "db1")
            reply = await lab.admin().Explain(request)
        assert reply.verdict == "allowed"
        assert [(e.host, e.direction, e.verdict, e.kernel_verdict, e.rule) for e in reply.ends] == [
            ("web1", "egress", "allowed", "allowed", "web-db"),
            ("db1", "ingress", "allowed", "denied", "web-db"),
        ]
        assert "10.0.0.1: denied (in shop-db tcp)" in reply.ends[1].kernel_detail
        assert reply.differs
        reply = await lab.admin().Explain(request)
        assert not reply.differs
        assert "not connected" in reply.ends[0].kernel_detail
        request.source = "nobody"
        code, text = await refusal(lab.admin().Explain(request))
        assert (code, "nobody" in text) == (Code.INVALID_ARGUMENT, True)


async def settled(lab: ControllerLab, *names: str) -> None:
    async def so() -> bool:
        hosts = await lab.hosts()
        return all(hosts[n].state == "in-sync" and hosts[n].addresses for n in names)

    await eventually(so)


async def test_tags_come_from_administrators_and_from_the_vocabulary(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        await lab.enrol("web1", {"role": "web"})
        await lab.push(SHOP)
        admin = lab.admin()
        status = await admin.SetTags(admin_pb2.SetTagsRequest(host="web1", set={"env": "dev"}, remove=["role"]))
        assert dict(status.tags) == {"env": "dev"}
        for request, words in (
            (admin_pb2.SetTagsRequest(host="web1", set={"env": "qa"}), "declared: dev, prod"),
            (admin_pb2.SetTagsRequest(host="web1", set={"colour": "red"}), "'colour' is not declared"),
            (admin_pb2.SetTagsRequest(host="web1", remove=["role"]), "has no tag role"),
            (admin_pb2.SetTagsRequest(host="web1", set={"a b": "c"}), "malformed"),
        ):
            code, text = await refusal(admin.SetTags(request))
            assert (code, words in text) == (Code.INVALID_ARGUMENT, True), text
        code, text = await refusal(admin.SetTags(admin_pb2.SetTagsRequest(host="nobody")))
        assert code is Code.NOT_FOUND
        assert dict((await lab.hosts())["web1"].tags) == {"env": "dev"}


async def test_tokens_are_listed_without_their_secret(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        admin = lab.admin()
        made = await lab.token({"role": "web"}, uses=3, networks=["10.0.0.0/8"])
        [token] = (await admin.ListTokens(admin_pb2.ListTokensRequest())).tokens
        assert (token.id, token.uses_left, list(token.networks), token.created_by) == (
            made.id,
            3,
            ["10.0.0.0/8"],
            "root",
        )
        audit = str(await admin.Audit(admin_pb2.AuditRequest()))
        assert made.join not in audit
        for fields in ({"networks": ["10.0.0.1/8"]}, {"host": "A"}, {"uses": 10**6}, {"valid_seconds": 10**9}):
            code, _ = await refusal(lab.token({}, **fields))
            assert code is Code.INVALID_ARGUMENT
        code, _ = await refusal(admin.RevokeToken(admin_pb2.RevokeTokenRequest(id="t-0")))
        assert code is Code.NOT_FOUND
