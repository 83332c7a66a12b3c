"""Signing in at the OpenID provider through a browser, and staying signed in."""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from segctl.oidcweb import discover
from segctl.proto.v1 import admin_pb2
from segctl_controller.clock import Clock
from segctl_controller.revocation import RECHECK
from segctl_controller.store.memory import MemoryStore
from segctl_controller.store.records import Role
from segctl_controller.store_thread import StoreThread
from segctl_controller.web import transcode
from segctl_controller.web.renewal import AGAIN_US, due_us, renew
from segctl_controller.web.sessions import IDLE, Renewal, Session, Sessions

from tests.controller_harness import eventually, running_controller
from tests.oidcprovider import Provider, provider
from tests.unit.segctl_controller.test_oidc import give
from tests.unit.segctl_controller.test_reports import batch, denial, report
from tests.webvisitor import SESSION, Answer, Visitor, events, next_event

TRY = "__Host-segctl-signin"


@pytest.fixture
def idp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    with provider(tmp_path) as (made, ca):
        monkeypatch.setenv("SSL_CERT_FILE", str(ca))
        yield made


def settings(idp: Provider) -> dict[str, object]:
    return {**idp.settings(), "api_port": None, "web": {"port": 0}}


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: object) -> None:
        return None


def consent(address: str, who: str = "alice", action: str = "") -> str:
    """The person at the provider's page; where the browser is sent then."""
    form = urllib.parse.urlencode({"sub": who, **({"action": action} if action else {})}).encode()
    try:
        urllib.request.build_opener(_Stay).open(address, form)
    except urllib.error.HTTPError as answer:
        with answer:
            assert answer.code in (302, 303)
            return str(answer.headers["Location"])
    raise AssertionError("the provider sends nobody back")


async def signed_in(visitor: Visitor, who: str = "alice", action: str = "") -> Answer:
    away = (await visitor.get("/auth/oidc")).headers["location"]
    back = await asyncio.to_thread(consent, away, who, action)
    assert back.startswith(f"{visitor.origin}/auth/back?")
    return await visitor.get(back.removeprefix(visitor.origin))


async def pass_time(visitor: Visitor, later: list[int], until_us: int) -> int:
    """Until then, with a look now and then: a session that nobody uses ends. The status of the last one."""
    status = 0
    while (left := until_us - time.time_ns() // 1000 - later[0]) > 0:
        later[0] += min(left, IDLE * 900_000)
        status = (await visitor.call("WhoAmI")).status
    return status


async def test_a_member_signs_in_and_is_who_the_provider_says(tmp_path: Path, idp: Provider) -> None:
    async with running_controller(tmp_path, **settings(idp)) as lab:
        give(lab, "web-team", Role.EDITOR)
        visitor = Visitor(lab)
        assert (await visitor.get("/auth/options")).json == {"issuer": idp.issuer}
        answer = await signed_in(visitor)
        assert (answer.status, answer.headers["location"]) == (303, "/")
        assert visitor.cookies.keys() == {SESSION}
        found = (await visitor.call("WhoAmI")).json
        assert (found["name"], found["role"], found["identity"]) == ("oidc/alice@example.net", "editor", "oidc alice")
        entries = (await lab.admin().Audit(admin_pb2.AuditRequest(action="web-sign-in"))).entries
        assert [(e.actor, e.identity) for e in entries] == [("oidc/alice@example.net", "oidc alice")]


async def test_who_may_not_in_is_told_which_kind_it_was(tmp_path: Path, idp: Provider) -> None:
    async with running_controller(tmp_path, **settings(idp)) as lab:
        give(lab, "web-team", Role.VIEWER)
        visitor = Visitor(lab)
        told = [(await signed_in(visitor, *who)).headers["location"] for who in (("mallory",), ("alice", "deny"))]
        assert told == ["/signin?failed=forbidden", "/signin?failed=refused"]
        assert not visitor.cookies


async def test_an_answer_counts_in_the_browser_that_asked_and_once(tmp_path: Path, idp: Provider) -> None:
    async with running_controller(tmp_path, **settings(idp)) as lab:
        give(lab, "web-team", Role.VIEWER)
        ours, theirs = Visitor(lab), Visitor(lab)
        away = (await ours.get("/auth/oidc")).headers["location"]
        kept = dict(ours.cookies)
        back = (await asyncio.to_thread(consent, away)).removeprefix(ours.origin)
        assert (await theirs.get(back)).headers["location"] == "/signin?failed=refused"
        await theirs.get("/auth/oidc")  # has a sign-in under way, another one
        assert (await theirs.get(back)).headers["location"] == "/signin?failed=refused"
        assert (await ours.get(back)).headers["location"] == "/"
        ours.cookies = kept
        assert (await ours.get(back)).headers["location"] == "/signin?failed=provider"  # the code is used up
        assert SESSION not in {**theirs.cookies, **ours.cookies}
        for strange in ("a.b", "..", "\u00e9.b.c".encode().hex()):
            ours.cookies = {TRY: strange}
            for query in (back, "/auth/back?state=&code=x", "/auth/back?state=%C3%A9&code=x"):
                assert (await ours.get(query)).headers["location"] == "/signin?failed=refused"


async def test_a_session_goes_on_while_the_provider_renews_it(tmp_path: Path, idp: Provider) -> None:
    later = [0]
    clock = Clock(lambda: time.time_ns() // 1000 + later[0])
    async with running_controller(tmp_path, clock, **settings(idp)) as lab:
        give(lab, "web-team", Role.VIEWER)
        visitor = Visitor(lab)
        await signed_in(visitor)
        until = int((await visitor.call("WhoAmI")).json["until_us"])
        idp.lasts = 10_000
        await pass_time(visitor, later, until - 30 * 10**6)  # half a minute before its end
        assert int((await visitor.call("WhoAmI")).json["until_us"]) > until
        idp.refreshing = False
        until = int((await visitor.call("WhoAmI")).json["until_us"])
        assert await pass_time(visitor, later, until - 120 * 10**6) == 200
        assert await pass_time(visitor, later, until - 30 * 10**6) == 401


async def test_an_open_stream_goes_on_with_the_next_id_token_and_ends_with_the_last(
    tmp_path: Path, idp: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcode, "ALIVE", 0.1)
    later = [0]
    clock = Clock(lambda: time.time_ns() // 1000 + later[0])
    async with running_controller(tmp_path, clock, **settings(idp)) as lab:
        give(lab, "web-team", Role.VIEWER)
        host = await lab.enrol("db1", {})
        visitor = Visitor(lab)
        await signed_in(visitor)
        until = int((await visitor.call("WhoAmI")).json["until_us"])
        idp.lasts = 10_000
        async with events(visitor) as answer:

            async def quiet(seconds: float) -> None:
                for _ in range(int(seconds / 0.1)):
                    assert await asyncio.to_thread(answer.readline) in (b": hello\n", b": alive\n")
                    assert await asyncio.to_thread(answer.readline) == b"\n"

            await quiet(0.3)
            await pass_time(visitor, later, until - 90 * 10**6)
            later[0] += 60 * 10**6  # half a minute before the end of its ID token
            await quiet(0.5)
            later[0] += 120 * 10**6
            await quiet(3 * RECHECK)
            await report(host, batch(1, denial()))
            kind, told = await asyncio.to_thread(next_event, answer)
            assert (kind, told["connection"]["host"]) == ("message", "db1")
            idp.refreshing = False
            later[0] += 10_000 * 10**6
            kind, told = await asyncio.to_thread(next_event, answer)
            assert (kind, told["code"]) == ("refused", "UNAUTHENTICATED")
            assert "sign in" in told["message"]
            assert "segctl" not in told["message"]


async def test_a_provider_that_is_away_is_asked_now_and_then(tmp_path: Path, idp: Provider) -> None:
    later = [0]
    clock = Clock(lambda: time.time_ns() // 1000 + later[0])
    async with running_controller(tmp_path, clock, **settings(idp)) as lab:
        give(lab, "web-team", Role.VIEWER)
        visitor = Visitor(lab)
        await signed_in(visitor)
        until = int((await visitor.call("WhoAmI")).json["until_us"])
        idp.away, idp.lasts = True, 10_000
        await pass_time(visitor, later, until - 30 * 10**6)
        assert int((await visitor.call("WhoAmI")).json["until_us"]) == until
        idp.away = False
        assert int((await visitor.call("WhoAmI")).json["until_us"]) == until
        later[0] += AGAIN_US
        assert int((await visitor.call("WhoAmI")).json["until_us"]) > until


@pytest.mark.parametrize(("lasts", "before"), [(600, 60), (100, 50), (0, 0)])
def test_an_id_token_is_renewed_a_minute_before_its_end_or_at_half_its_time(lasts: int, before: int) -> None:
    assert due_us((1000 + lasts) * 10**6, 1000 * 10**6) == (1000 + lasts - before) * 10**6


async def test_a_visitor_who_leaves_does_not_stop_the_renewal(idp: Provider) -> None:
    """The provider may have exchanged the refresh token by then."""
    found = await asyncio.to_thread(discover, idp.issuer)
    session = Session("oidc alice", "alice", "old", renewal=Renewal("segctl", found["token_endpoint"], "", "refresh"))
    with closing(StoreThread(MemoryStore())) as db:
        sessions = Sessions(db, Clock())
        await sessions.begin(session)
        idp.away = True
        asking = asyncio.create_task(renew(session, sessions, Clock()))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert session.renewing is not None
        await session.renewing
        assert session.renewal is not None
        assert session.renewal.due_us > 0


@pytest.mark.parametrize("revokes", [True, False])
async def test_signing_out_gives_the_refresh_token_back_where_the_provider_takes_it(
    tmp_path: Path, idp: Provider, revokes: bool
) -> None:
    idp.revokes = revokes
    async with running_controller(tmp_path, **settings(idp)) as lab:
        give(lab, "web-team", Role.VIEWER)
        visitor = Visitor(lab)
        await signed_in(visitor)
        assert (await visitor.post("/auth/out")).status == 204
        assert (await visitor.post("/auth/out")).status == 204  # who is out already

        async def given_back() -> bool:
            return len(idp.revoked) == revokes

        await eventually(given_back)
        for asked in idp.revoked:
            assert (asked["client_id"], asked["token_type_hint"]) == ("segctl", "refresh_token")
            assert asked["token"]


async def test_the_refresh_token_of_who_is_refused_is_given_back(tmp_path: Path, idp: Provider) -> None:
    idp.revokes = True
    async with running_controller(tmp_path, **settings(idp)) as lab:  # no group may anything
        answer = await signed_in(Visitor(lab))
        assert answer.headers["location"] == "/signin?failed=forbidden"

        async def given_back() -> bool:
            return len(idp.revoked) == 1

        await eventually(given_back)


async def test_without_a_provider_there_is_nothing_to_sign_in_at(tmp_path: Path) -> None:
    async with running_controller(tmp_path, web={"port": 0}) as lab:
        visitor = Visitor(lab)
        assert (await visitor.get("/auth/options")).json == {"issuer": ""}
        assert (await visitor.get("/auth/oidc")).status == 404
        assert (await visitor.get("/auth/back?code=x&state=y")).headers["location"] == "/signin?failed=refused"
