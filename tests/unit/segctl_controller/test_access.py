"""Owners, API tokens and refusals, at a real controller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import pytest
from segctl.apitoken import FORM, is_whole, new_token
from segctl.proto.v1 import admin_pb2, admin_pb2_grpc, agent_pb2, agent_pb2_grpc
from segctl_controller import limits
from segctl_controller.clock import Clock
from segctl_controller.errors import InvalidRequestError
from segctl_controller.limits import LIMITS, Limit
from segctl_controller.principal import checked_scope, parse_scope
from segctl_controller.setup import remove_operator
from segctl_controller.store.records import Role
from segctl_controller.store.sql import SqlStore

from tests.controller_harness import SECONDS, ControllerLab, eventually, running_controller
from tests.unit.segctl_controller.policies import SHOP
from tests.unit.segctl_controller.test_admin import Code, everything, refusal, source

WEB = MappingProxyType({"role": "web"})
INSIDE = SHOP.replace(
    "essentials:",
    "  - {name: open-web, from: {peer: office}, to: {role: web}, allow: [tcp/80], owner: web, why: it}\nessentials:",
)
OUTSIDE = SHOP.replace("allow: [pg]", "allow: [pg, tcp/8080]")


def stub(lab: ControllerLab, token: str) -> Any:
    """Admin by this token, on the listener for tokens."""
    channel = lab.anonymous(lab.api_address)

    class WithToken:
        def __getattr__(self, name: str) -> Any:
            method = getattr(admin_pb2_grpc.AdminStub(channel), name)
            return lambda request: method(request, metadata=(("authorization", f"Bearer {token}"),))

    return WithToken()


async def made(
    lab: ControllerLab, name: str, role: str, scope: Mapping[str, str] = MappingProxyType({}), **more: Any
) -> Any:
    request = admin_pb2.CreateApiTokenRequest(name=name, role=role, scope=dict(scope), **more)
    return await lab.admin().CreateApiToken(request)


async def audit(lab: ControllerLab, action: str) -> list[admin_pb2.AuditEntry]:
    return list((await lab.admin().Audit(admin_pb2.AuditRequest(action=action))).entries)


def push(policy: str, **fields: Any) -> admin_pb2.PushRequest:
    return admin_pb2.PushRequest(source=source(policy), rollout=admin_pb2.Rollout(watch_seconds=0, **fields))


async def test_an_owner_changes_what_is_its_own_and_nothing_else(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        lab.operator("wanda", Role.OWNER, WEB)
        wanda = lab.admin("wanda")
        who = await wanda.WhoAmI(admin_pb2.WhoAmIRequest())
        assert (who.role, [dict(s.tags) for s in who.scopes]) == ("owner", [dict(WEB)])
        code, text = await refusal(everything(wanda.Push(push(SHOP))))
        assert (code, "the values of the tag role" in text) == (Code.PERMISSION_DENIED, True)
        await lab.push(SHOP)

        plan = await wanda.Plan(source(OUTSIDE))
        assert [(f.severity, f.code) for f in plan.findings if f.code == "outside-scope"] == [
            ("error", "outside-scope")
        ]
        code, text = await refusal(everything(wanda.Push(push(OUTSIDE))))
        assert code is Code.PERMISSION_DENIED
        assert "'wanda' may change what belongs to role=web, and this changes more:" in text
        assert "policy.yaml:17:5: error: rule web-db changes, and can open what is outside: shop-db" in text
        assert "ask an editor or administrator" in text

        assert (await everything(wanda.Push(push(INSIDE))))[0].stored.author == "wanda"
        await lab.push(OUTSIDE)  # an editor's: wanda's rule goes, another changes
        code, _ = await refusal(everything(wanda.Rollback(admin_pb2.RollbackRequest(generation=2))))
        assert code is Code.PERMISSION_DENIED
        for call in (
            wanda.SetTags(admin_pb2.SetTagsRequest(host="x", set=WEB)),
            wanda.CreateToken(admin_pb2.CreateTokenRequest(tags=WEB)),
            wanda.CreateApiToken(admin_pb2.CreateApiTokenRequest(name="x", role="owner", scope=WEB)),
            wanda.Audit(admin_pb2.AuditRequest()),
        ):
            assert (await refusal(call))[0] is Code.PERMISSION_DENIED


async def test_an_owner_ends_its_own_trial_and_leaves_nobody_elses_host_out(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        lab.operator("wanda", Role.OWNER, WEB)
        wanda = lab.admin("wanda")
        await lab.push(SHOP)
        agent, _ = await lab.enrol("db1", {"role": "db"}), await lab.enrol("web1", dict(WEB))
        code, text = await refusal(everything(wanda.Push(push(INSIDE, without=["db1"]))))
        assert (code, "db1 is not of role=web" in text) == (Code.PERMISSION_DENIED, True)
        async with agent.session(["10.0.0.2"]) as session:
            await session.receive()
            async with lab.pushing(OUTSIDE) as others:
                await eventually(lambda: _trial(lab))
                code, text = await refusal(everything(wanda.Rollback(admin_pb2.RollbackRequest(end_trial=2))))
                assert (code, "this push is by 'root'" in text) == (Code.PERMISSION_DENIED, True)
                assert (await refusal(everything(wanda.Rollback(admin_pb2.RollbackRequest()))))[
                    0
                ] is Code.PERMISSION_DENIED
                await everything(lab.admin().Rollback(admin_pb2.RollbackRequest(end_trial=2)))
                await others
            mine = asyncio.create_task(everything(wanda.Push(push(INSIDE, without=["web1"]))))
            await eventually(lambda: _trial(lab))
            ended = await everything(wanda.Rollback(admin_pb2.RollbackRequest(end_trial=3)))
            assert ended[-1].done.undone
            await mine


async def _trial(lab: ControllerLab) -> bool:
    return (await lab.admin().Status(admin_pb2.StatusRequest())).HasField("trial")


@pytest.mark.parametrize(
    ("role", "scope"), [(Role.OWNER, ()), (Role.VIEWER, ("app=shop",)), (Role.ADMIN, ("app=shop",))]
)
def test_owners_have_a_scope_and_nobody_else_does(role: Role, scope: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequestError, match="scope"):
        checked_scope(role, parse_scope(scope))


def test_an_api_token_is_found_by_scanners_and_tells_when_it_was_cut_off() -> None:
    tokens = {new_token() for _ in range(50)}
    assert len(tokens) == 50
    for token in tokens:
        assert FORM.fullmatch(token)
        assert is_whole(token)
        assert not is_whole(token[:-1])
        assert not is_whole(token[:20] + ("A" if token[20] != "A" else "B") + token[21:])


async def test_an_api_token_has_its_role_until_it_is_revoked_or_ends(tmp_path: Path) -> None:
    later = [0]
    clock = Clock(lambda: time.time_ns() // 1000 + later[0])
    async with running_controller(tmp_path, clock, api_port=0) as lab:
        token = await made(lab, "ci", "owner", WEB, valid_seconds=3600)
        ci = stub(lab, token.secret)
        who = await ci.WhoAmI(admin_pb2.WhoAmIRequest())
        assert (who.name, who.role, who.identity) == ("token/ci", "owner", f"api-token {token.token.id}")
        assert who.certificate_until_us == 0
        assert who.until_us == token.token.expires_us
        await lab.push(SHOP)
        assert (await everything(ci.Push(push(INSIDE))))[0].stored.author == "token/ci"
        (entry, _) = await audit(lab, "push")
        assert (entry.actor, entry.identity, entry.peer) == ("token/ci", f"api-token {token.token.id}", "127.0.0.1")
        assert (await refusal(everything(ci.Push(push(OUTSIDE)))))[0] is Code.PERMISSION_DENIED

        async def used() -> bool:
            (found,) = (await lab.admin().ListApiTokens(admin_pb2.ListApiTokensRequest())).tokens
            return found.last_used_us > 0

        await eventually(used)
        assert token.secret not in str(await lab.admin().Audit(admin_pb2.AuditRequest()))
        assert token.secret.encode() not in b"".join(p.read_bytes() for p in lab.state.glob("controller.db*"))
        later[0] = 2 * 3600 * 10**6
        assert (await refusal(ci.Status(admin_pb2.StatusRequest())))[0] is Code.UNAUTHENTICATED
        later[0] = 0
        await lab.admin().RevokeApiToken(admin_pb2.RevokeApiTokenRequest(id=token.token.id))
        code, text = await refusal(ci.Status(admin_pb2.StatusRequest()))
        assert (code, "unknown, revoked or expired" in text) == (Code.UNAUTHENTICATED, True)


async def test_revocation_ends_what_is_open_at_once(tmp_path: Path) -> None:
    async with running_controller(tmp_path, api_port=0) as lab:
        token = await made(lab, "watch", "viewer")
        stream = stub(lab, token.secret).Denied(admin_pb2.DeniedRequest(follow=True))
        await stream.initial_metadata()
        await lab.admin().RevokeApiToken(admin_pb2.RevokeApiTokenRequest(id=token.token.id))
        async with asyncio.timeout(SECONDS / 2):  # and not at the next look, in ten seconds
            code, text = await refusal(stream.read())
        assert (code, "revoked" in text) == (Code.UNAUTHENTICATED, True)


async def test_an_operator_who_was_removed_reads_no_push_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segctl_controller.gate.RECHECK", 0.1)
    async with running_controller(tmp_path) as lab:
        lab.operator("ed", Role.EDITOR)
        agent = await lab.enrol("web1", dict(WEB))
        async with agent.session(["10.0.0.1"]) as session:
            await session.receive()
            stream = lab.admin("ed").Push(admin_pb2.PushRequest(source=source(SHOP), wait_seconds=int(SECONDS)))
            assert (await stream.read()).stored.author == "ed"
            store = SqlStore(lab.state / "controller.db")
            remove_operator(store, "ed", Clock())
            store.close()
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                while await stream.read() is not grpc.aio.EOF:
                    pass
            assert ended.value.code() is Code.UNAUTHENTICATED
            assert await _trial(lab)  # the push itself goes on


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "X!", "role": "viewer"}, "is not a name"),
        ({"name": "x", "role": "root"}, "one of viewer"),
        ({"name": "x", "role": "owner"}, "needs a scope"),
        ({"name": "x", "role": "viewer", "scope": {"app": "shop"}}, "fleet-wide"),
        ({"name": "x", "role": "viewer", "valid_seconds": 4_000_000_000}, "366 days"),
    ],
)
async def test_api_tokens_that_are_not_made(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    async with running_controller(tmp_path, api_port=0) as lab:
        code, text = await refusal(lab.admin().CreateApiToken(admin_pb2.CreateApiTokenRequest(**fields)))
        assert (code, words in text) == (Code.INVALID_ARGUMENT, True), text


async def test_a_controller_that_takes_no_tokens_makes_none(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        code, text = await refusal(made(lab, "ci", "viewer"))
        assert (code, "api_port" in text) == (Code.FAILED_PRECONDITION, True)


async def test_only_admin_and_sign_in_are_served_without_a_certificate(tmp_path: Path) -> None:
    """An agent's methods, and enrolment, are not there; and on the listener of certificates no token counts."""
    async with running_controller(tmp_path, api_port=0) as lab:
        secret = (await made(lab, "root", "admin")).secret
        bearer = (("authorization", f"Bearer {secret}"),)
        bare = lab.anonymous(lab.api_address)
        agent: Any = agent_pb2_grpc.AgentStub(bare)
        enrolment: Any = agent_pb2_grpc.EnrolmentStub(bare)
        for call in (
            agent.Renew(agent_pb2.RenewRequest(), metadata=bearer),
            agent.Audit(agent_pb2.HostAuditRequest(), metadata=bearer),
            agent.Session(metadata=bearer, timeout=5).read(),
            enrolment.Enrol(agent_pb2.EnrolRequest()),
        ):
            assert (await refusal(call))[0] is Code.UNIMPLEMENTED
        admin: Any = admin_pb2_grpc.AdminStub(lab.anonymous(lab.address))
        assert (await refusal(admin.Status(admin_pb2.StatusRequest(), metadata=bearer, timeout=5)))[
            0
        ] is Code.UNAVAILABLE
        enrol: Any = admin_pb2_grpc.AdminStub(lab.anonymous(lab.enrol_address))
        assert (await refusal(enrol.Status(admin_pb2.StatusRequest(), metadata=bearer)))[0] is Code.UNIMPLEMENTED
        options = await admin_pb2_grpc.SignInStub(bare).Options(admin_pb2.SignInOptionsRequest())
        assert options.issuer == ""
        # A host's certificate is nobody here, whatever token comes with it.
        host = await lab.enrol("web1", {"role": "web"})
        both: Any = admin_pb2_grpc.AdminStub(lab.channel(host.identity))
        assert (await refusal(both.Status(admin_pb2.StatusRequest(), metadata=bearer)))[0] is Code.PERMISSION_DENIED


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Basic cm9vdDpyb290"),),
        (("authorization", "Bearer "),),
        (("authorization", "Bearer " + new_token()),),
        (("authorization", "Bearer segctl_short"),),
        (("authorization", "Bearer eyJhbGciOiJub25lIn0.e30."),),
        (("authorization", "Bearer " + "x" * 9000),),
        (("authorization", "Bearer a"), ("authorization", "Bearer b")),
    ],
)
async def test_no_other_bearer_is_anybody(tmp_path: Path, metadata: tuple[tuple[str, str], ...]) -> None:
    async with running_controller(tmp_path, api_port=0) as lab:
        admin: Any = admin_pb2_grpc.AdminStub(lab.anonymous(lab.api_address))
        assert (await refusal(admin.WhoAmI(admin_pb2.WhoAmIRequest(), metadata=metadata)))[0] is Code.UNAUTHENTICATED
        (entry,) = await audit(lab, "access-refused")
        assert (entry.actor, entry.subject, entry.peer) == ("peer 127.0.0.1", "WhoAmI", "127.0.0.1")


async def test_refusals_are_told_and_bounded(tmp_path: Path) -> None:
    async with running_controller(tmp_path, api_port=0) as lab:
        lab.operator("vera", Role.VIEWER)
        await refusal(lab.admin("vera").RemoveHost(admin_pb2.RemoveHostRequest(host="x")))
        (entry,) = await audit(lab, "access-refused")
        assert (entry.actor, entry.subject) == ("vera", "RemoveHost")
        assert entry.identity.startswith("certificate ")
        admin: Any = admin_pb2_grpc.AdminStub(lab.anonymous(lab.api_address))
        codes = [(await refusal(admin.Status(admin_pb2.StatusRequest())))[0] for _ in range(70)]
        assert codes[:60] == [Code.UNAUTHENTICATED] * 60
        assert codes[60:] == [Code.RESOURCE_EXHAUSTED] * 10
        store = SqlStore(lab.state / "controller.db")  # this address may not ask any more
        assert sum(e.action == "access-refused" for e in store.entries(1000)) == 10
        store.close()


def test_every_method_of_every_service_has_a_limit() -> None:
    services = [*admin_pb2.DESCRIPTOR.services_by_name.values(), *agent_pb2.DESCRIPTOR.services_by_name.values()]
    methods = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert methods == LIMITS.keys()
    docs = (Path(__file__).parents[3] / "docs" / "security.md").read_text()
    table = docs.partition("## Limits")[2].partition("\n## ")[0]
    assert [m for m in sorted(methods) if f"`{m.rpartition('.')[2].replace('/', '.')}`" not in table] == []


async def test_a_method_without_a_limit_and_a_request_over_it_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {name: limit for name, limit in LIMITS.items() if not name.endswith("/Flows")}
    known["/segctl.v1.Admin/Status"] = Limit(limits.SMALL, rate=0.1, burst=3)
    known["/segctl.v1.Admin/Denied"] = Limit(limits.SMALL, streams=2)
    for module in ("limits", "gate"):
        monkeypatch.setattr(f"segctl_controller.{module}.LIMITS", known)
    async with running_controller(tmp_path) as lab:
        admin = lab.admin()
        assert (await refusal(admin.Flows(admin_pb2.FlowsRequest())))[0] is Code.UNIMPLEMENTED
        large = admin_pb2.ListHostsRequest(name="x" * limits.SMALL)
        code, text = await refusal(admin.ListHosts(large))
        assert (code, "ListHosts takes at most 16384" in text) == (Code.RESOURCE_EXHAUSTED, True)
        many = admin_pb2.SetTagsRequest(host="x", remove=["k" * 60] * 10_000)
        assert (await refusal(admin.SetTags(many)))[0] is Code.RESOURCE_EXHAUSTED
        for _ in range(3):
            await admin.Status(admin_pb2.StatusRequest())
        code, text = await refusal(admin.Status(admin_pb2.StatusRequest()))
        assert (code, "'root' calls Status too often" in text) == (Code.RESOURCE_EXHAUSTED, True)
        following = [admin.Denied(admin_pb2.DeniedRequest(follow=True)) for _ in range(2)]
        for call in following:
            await call.initial_metadata()
        third = admin.Denied(admin_pb2.DeniedRequest(follow=True))
        assert (await refusal(third.read()))[0] is Code.RESOURCE_EXHAUSTED
        following[0].cancel()

        async def free() -> bool:
            call = admin.Denied(admin_pb2.DeniedRequest())
            return await call.code() is Code.OK

        await eventually(free)
